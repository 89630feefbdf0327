#![doc = include_str!("../README.md")]
#![cfg_attr(
    not(any(feature = "redis", feature = "mysql", feature = "postgres", feature = "sqlite")),
    allow(dead_code, clippy::unused_async, reason = "without a backend, nothing can be read")
)]

mod arguments;
mod error;
mod examine;
mod key;
mod report;
mod scan;
mod source;
mod summary;
mod url;

pub use self::{arguments::Arguments, error::Error};
use self::{
    arguments::{Command, KeyArguments, NamespaceArguments},
    error::Result,
    examine::examine,
    url::Target,
};

/// Runs a command, and returns what it prints.
///
/// # Errors
///
/// Returns an error if the arguments are wrong, the backend fails, or there is no such key.
pub async fn run(arguments: &Arguments) -> Result<String> {
    match &arguments.command {
        Command::Key(arguments) => inspect_key(arguments).await,
        Command::Namespace(arguments) => inspect_namespace(arguments).await,
    }
}

async fn inspect_key(arguments: &KeyArguments) -> Result<String> {
    let (target, parts) = Target::split(&arguments.positional, url::from_environment())?;
    let key = key::parse(&parts, arguments.hex)?;
    let place = &arguments.place;
    let mut source = source::connect(&target, place, None).await?;
    let Some(listed) = source.find(key.as_bytes()).await? else {
        let message = format!("the namespace `{}` of {} has no such key", place.namespace, source.title());
        return Err(Error::failed(message));
    };
    let found = source.fetch(std::slice::from_ref(&listed)).await?.into_iter().next();
    let found = found.ok_or_else(|| Error::failed("the key was removed while it was read"))?;
    let examined = examine(&found, source.run(), place.plain);
    let payload = arguments.payload.map(|limit| report::Payload::of(&found, &examined, limit));
    let report = report::Key { source: source.title(), place, run: source.run(), found: &found, examined: &examined };
    Ok(if place.json { report.json(payload.as_ref()) } else { report.text(payload.as_ref()) })
}

async fn inspect_namespace(arguments: &NamespaceArguments) -> Result<String> {
    let (target, rest) = Target::split(&arguments.positional, url::from_environment())?;
    if !rest.is_empty() {
        return Err(Error::usage("this command takes no other argument than the URL; quote a pattern for --match"));
    }
    let place = &arguments.place;
    let mut source = source::connect(&target, place, arguments.pattern.as_deref()).await?;
    let outcome = scan::scan(&mut *source, arguments).await?;
    let report = report::Namespace { source: source.title(), arguments, run: source.run(), outcome: &outcome };
    Ok(if place.json { report.json() } else { report.text() })
}

/// Returns the names of the backends that this build can read.
fn backends() -> String {
    let all = [
        ("redis", cfg!(feature = "redis")),
        ("mysql", cfg!(feature = "mysql")),
        ("postgres", cfg!(feature = "postgres")),
        ("sqlite", cfg!(feature = "sqlite")),
    ];
    let names: Vec<&str> = all.into_iter().filter_map(|(name, is_there)| is_there.then_some(name)).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
