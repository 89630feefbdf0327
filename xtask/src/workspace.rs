//! The workspace, from the output of `cargo metadata`.

use std::path::PathBuf;

use serde_json::Value;

use crate::{
    Result,
    run::{cargo, output},
};

/// The members of the workspace.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// The target folder.
    pub(crate) target: PathBuf,
    members: Vec<Package>,
    /// The name and the `rust-version` of every package of the dependency graph that declares one.
    rust_versions: Vec<(String, RustVersion)>,
}

/// A member of the workspace.
#[derive(Debug)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) features: Vec<String>,
    pub(crate) rust_version: Option<RustVersion>,
    /// The names of its normal dependencies that are not optional.
    pub(crate) dependencies: Vec<String>,
    published: bool,
    /// `true` if the manifest has `outside-ci = true` under `[package.metadata.xtask]`.
    outside_ci: bool,
}

/// Major, minor and patch version of a compiler.
pub(crate) type RustVersion = [u64; 3];

impl Workspace {
    /// Reads the workspace from cargo.
    pub(crate) fn read() -> Result<Self> {
        let json = output(&mut cargo(&["metadata", "--format-version", "1", "--all-features"]))?;
        let metadata: Value = serde_json::from_str(&json).map_err(|error| format!("cargo metadata: {error}"))?;
        let is_member = |package: &&Value| array(&metadata["workspace_members"]).contains(&package["id"]);
        let packages = array(&metadata["packages"]);
        Ok(Self {
            target: text(&metadata["target_directory"]).into(),
            members: packages.iter().filter(is_member).map(Package::read).collect(),
            rust_versions: packages
                .iter()
                .filter_map(|package| Some((text(&package["name"]), rust_version(package)?)))
                .collect(),
        })
    }

    /// Returns the members that are published.
    pub(crate) fn published(&self) -> impl Iterator<Item = &Package> {
        self.members.iter().filter(|package| package.published)
    }

    /// Returns the members that are not published.
    pub(crate) fn unpublished(&self) -> impl Iterator<Item = &Package> {
        self.members.iter().filter(|package| !package.published)
    }

    /// Returns the arguments by which cargo and cargo-deny work on all members except those outside
    /// CI, which are expensive to build.
    pub(crate) fn in_ci(&self) -> Vec<&str> {
        let outside = self.members.iter().filter(|package| package.outside_ci);
        let excluded = outside.flat_map(|package| ["--exclude", &package.name]);
        ["--workspace"].into_iter().chain(excluded).collect()
    }

    /// Returns the oldest compiler that any version of this package in the graph needs.
    pub(crate) fn rust_version_of(&self, name: &str) -> Option<RustVersion> {
        self.rust_versions.iter().filter(|(of, _)| of == name).map(|(_, version)| *version).min()
    }
}

impl Package {
    fn read(package: &Value) -> Self {
        let is_built = |dependency: &&Value| dependency["kind"].is_null() && dependency["optional"] == false;
        Self {
            name: text(&package["name"]),
            features: package["features"]
                .as_object()
                .map(|features| features.keys().cloned().collect())
                .unwrap_or_default(),
            rust_version: rust_version(package),
            dependencies: array(&package["dependencies"])
                .iter()
                .filter(is_built)
                .map(|dependency| text(&dependency["name"]))
                .collect(),
            // `publish = false` is an empty list of registries.
            published: package["publish"].as_array().is_none_or(|registries| !registries.is_empty()),
            outside_ci: package["metadata"]["xtask"]["outside-ci"] == true,
        }
    }
}

fn rust_version(package: &Value) -> Option<RustVersion> {
    let mut version = [0; 3];
    for (part, number) in version.iter_mut().zip(package["rust_version"].as_str()?.split('.')) {
        *part = number.parse().ok()?;
    }
    Some(version)
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_package_is_read() {
        let package = Package::read(&json!({
            "name": "store-x",
            "publish": null,
            "rust_version": "1.88",
            "features": {"default": ["a"], "a": []},
            "dependencies": [
                {"name": "always", "kind": null, "optional": false},
                {"name": "sometimes", "kind": null, "optional": true},
                {"name": "in-tests", "kind": "dev", "optional": false},
            ],
        }));
        assert_eq!(package.name, "store-x");
        assert!(package.published);
        assert_eq!(package.features, ["a", "default"]);
        assert_eq!(package.rust_version, Some([1, 88, 0]));
        assert_eq!(package.dependencies, ["always"]);
    }

    #[test]
    fn publish_false_is_not_published() {
        assert!(!Package::read(&json!({"name": "xtask", "publish": []})).published);
        assert!(Package::read(&json!({"name": "x", "publish": ["crates-io"]})).published);
    }

    #[test]
    fn what_says_so_is_outside_ci() {
        let members = [
            json!({"name": "core", "metadata": null}),
            json!({"name": "peers", "metadata": {"xtask": {"outside-ci": true}}}),
            json!({"name": "store", "metadata": {"docs": {"rs": {"all-features": true}}}}),
        ];
        let workspace = Workspace {
            target: "".into(),
            members: members.iter().map(Package::read).collect(),
            rust_versions: vec![],
        };
        assert_eq!(workspace.in_ci(), ["--workspace", "--exclude", "peers"]);
    }

    #[test]
    fn newer_compilers_compare_as_newer() {
        let version = |text: &str| rust_version(&json!({"rust_version": text}));
        assert!(version("1.100") > version("1.88.2"));
        assert!(version("1.88") < version("1.88.1"));
        assert_eq!(version("nonsense"), None);
        assert_eq!(rust_version(&json!({"rust_version": null})), None);
    }
}
