//! A headless Chromium, driven by the `DevTools` protocol over two pipes.

use std::{
    collections::VecDeque,
    env, fs,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

/// How long the browser may take for anything.
const PATIENCE: Duration = Duration::from_mins(1);

/// A browser with one page. It is killed with this value.
pub(crate) struct Browser {
    child: Child,
    commands: ChildStdin,
    messages: BufReader<ChildStdout>,
    /// The session of the page.
    session: String,
    last_id: u64,
    /// What has come in while a reply was waited for.
    events: VecDeque<Value>,
    /// Its profile and its log.
    directory: TempDir,
}

impl Browser {
    /// Starts a browser with a profile of its own.
    ///
    /// # Panics
    ///
    /// If there is no Chromium.
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let log = fs::File::create(directory.path().join("log")).expect("a log");
        let chromium = env::var("CACHE_TEST_CHROMIUM").unwrap_or_else(|_| "chromium".to_owned());
        let found = Command::new(&chromium).arg("--version").output().await;
        assert!(
            found.is_ok_and(|output| output.status.success()),
            "this test needs chromium, see CONTRIBUTING (apt-get install chromium)"
        );
        // Chromium reads commands from descriptor 3 and writes messages to 4. The shell connects them
        // with the pipes that a child process has anyway.
        let mut command = Command::new("sh");
        command.args(["-c", r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >&2"#, &chromium]);
        command.args(["--headless", "--remote-debugging-pipe", "--window-size=1100,900", "--hide-scrollbars"]);
        command.args(["--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]);
        if rustix::process::getuid().is_root() {
            // The sandbox does not work for the super-user.
            command.arg("--no-sandbox");
        }
        command.arg(format!("--user-data-dir={}", directory.path().join("profile").display()));
        // The launcher of Debian looks for old reports in the home directory.
        command.env("HOME", directory.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        let mut child = command.spawn().expect("a shell");
        let commands = child.stdin.take().expect("a pipe");
        let messages = BufReader::new(child.stdout.take().expect("a pipe"));
        let (session, events) = (String::new(), VecDeque::new());
        let mut browser = Self { child, commands, messages, session, last_id: 0, events, directory };

        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" })).await;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", attach).await;
        attached["sessionId"].as_str().expect("a session").clone_into(&mut browser.session);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({})).await;
        }
        browser
    }

    /// Opens a page, and waits until it has loaded.
    pub(crate) async fn open(&mut self, url: &str) {
        let opened = self.call("Page.navigate", json!({ "url": url })).await;
        assert_eq!(opened.get("errorText"), None, "{url}: {opened}");
        while self.event().await["method"] != "Page.loadEventFired" {}
    }

    /// Returns the value of an expression in the page. A promise is awaited.
    ///
    /// # Panics
    ///
    /// If it throws.
    pub(crate) async fn evaluate(&mut self, expression: &str) -> Value {
        let arguments = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let mut result = self.call("Runtime.evaluate", arguments).await;
        assert_eq!(result.get("exceptionDetails"), None, "{expression}");
        result["result"]["value"].take()
    }

    /// Waits until an expression in the page is true. It is evaluated at each change of the page.
    pub(crate) async fn wait_for(&mut self, condition: &str) {
        let wait = format!(
            "new Promise((done) => {{
                const check = () => ({condition}) && (observer.disconnect(), done(true));
                const observer = new MutationObserver(check);
                observer.observe(document, {{ attributes: true, childList: true, characterData: true, subtree: true }});
                check();
            }})"
        );
        assert_eq!(self.evaluate(&wait).await, json!(true), "{condition}");
    }

    /// Returns the errors and warnings so far: of the console, of scripts, and of requests.
    pub(crate) async fn complaints(&mut self) -> Vec<String> {
        // What was said before this call is reported before its reply.
        self.evaluate("new Promise((done) => setTimeout(() => done(null)))").await;
        self.events.iter().filter_map(complaint).collect()
    }

    /// Waits until there are so many errors and warnings, and returns them.
    pub(crate) async fn complaints_of(&mut self, count: usize) -> Vec<String> {
        let complained = async {
            loop {
                let complaints = self.complaints().await;
                if complaints.len() >= count {
                    return complaints;
                }
                self.event().await;
            }
        };
        timeout(PATIENCE, complained).await.expect("complaints")
    }

    /// Returns the URLs that the page has asked for, in their order.
    pub(crate) fn requests(&self) -> Vec<&str> {
        let requests = self.events.iter().filter(|event| event["method"] == "Network.requestWillBeSent");
        requests.filter_map(|event| event["params"]["request"]["url"].as_str()).collect()
    }

    /// Chooses the `light` or the `dark` colours.
    pub(crate) async fn prefer(&mut self, scheme: &str) {
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", features).await;
    }

    /// Writes a picture of the page (PNG).
    pub(crate) async fn picture(&mut self, file: &Path) {
        let shown =
            self.call("Page.captureScreenshot", json!({ "format": "png", "captureBeyondViewport": true })).await;
        let picture = BASE64_STANDARD.decode(shown["data"].as_str().expect("a picture")).expect("base64");
        fs::write(file, picture).expect("a file");
    }

    /// Ends the browser in order.
    pub(crate) async fn close(mut self) -> ExitStatus {
        self.session.clear();
        self.call("Browser.close", json!({})).await;
        timeout(PATIENCE, self.child.wait()).await.expect("the browser ends").expect("an exit code")
    }

    /// Sends a command and returns its result.
    async fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.last_id += 1;
        let mut command = json!({ "id": self.last_id, "method": method, "params": parameters });
        if !self.session.is_empty() {
            command["sessionId"] = json!(self.session);
        }
        let mut bytes = command.to_string().into_bytes();
        bytes.push(0);
        self.commands.write_all(&bytes).await.expect("the browser reads");
        let replied = timeout(PATIENCE, self.reply(self.last_id)).await;
        let mut reply = replied.unwrap_or_else(|_| panic!("no reply to {command}\n{}", self.report()));
        assert_eq!(reply.get("error"), None, "{command}");
        reply["result"].take()
    }

    /// Returns the reply to this command. Keeps the events that come before it.
    async fn reply(&mut self, id: u64) -> Value {
        loop {
            let message = self.receive().await;
            if message["id"] == id {
                return message;
            }
            self.events.push_back(message);
        }
    }

    /// Returns the next event, which stays among those that have come in.
    async fn event(&mut self) -> Value {
        let event = timeout(PATIENCE, self.receive()).await;
        let event = event.unwrap_or_else(|_| panic!("no event\n{}", self.report()));
        self.events.push_back(event.clone());
        event
    }

    async fn receive(&mut self) -> Value {
        let mut message = Vec::new();
        let read = self.messages.read_until(0, &mut message).await;
        assert!(read.is_ok() && message.pop() == Some(0), "the browser has ended:\n{}", self.report());
        serde_json::from_slice(&message).expect("a message")
    }

    /// What went wrong in the page, and the log of the browser.
    fn report(&self) -> String {
        let complaints: Vec<String> = self.events.iter().filter_map(complaint).collect();
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        format!("{complaints:#?}\n{log}")
    }
}

/// Returns the text of an event that tells that something went wrong.
fn complaint(event: &Value) -> Option<String> {
    let parameters = &event["params"];
    match event["method"].as_str()? {
        "Runtime.consoleAPICalled" if ["error", "warning", "assert"].contains(&parameters["type"].as_str()?) => {
            let texts = parameters["args"].as_array()?.iter().map(|argument| argument["value"].to_string());
            Some(format!("console {}: {}", parameters["type"].as_str()?, texts.collect::<Vec<_>>().join(" ")))
        }
        "Runtime.exceptionThrown" => {
            let details = &parameters["exceptionDetails"];
            Some(format!("exception: {}", details["exception"]["description"].as_str().or(details["text"].as_str())?))
        }
        "Log.entryAdded" if ["error", "warning"].contains(&parameters["entry"]["level"].as_str()?) => {
            let entry = &parameters["entry"];
            Some(format!("log {}: {} {}", entry["level"].as_str()?, entry["text"].as_str()?, entry["url"]))
        }
        "Network.loadingFailed" => Some(format!("request failed: {}", parameters["errorText"].as_str()?)),
        _ => None,
    }
}
