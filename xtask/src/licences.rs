//! What dependencies are allowed: licences, sources and bans, as deny.toml says (the form of cargo-deny, so that
//! either tool can read it). Built in, because a check that needs another tool installed is a check that is skipped.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::ctx::Ctx;
use crate::guest;
use crate::run::capture;

/// The part of deny.toml that is read here.
#[derive(Deserialize)]
struct Policy {
    licenses: Licenses,
    bans: Bans,
    sources: Sources,
}

#[derive(Deserialize)]
struct Licenses {
    allow: BTreeSet<String>,
    #[serde(default)]
    exceptions: Vec<Exception>,
    #[serde(default)]
    clarify: Vec<Clarification>,
}

/// Licences that one package may have.
#[derive(Deserialize)]
struct Exception {
    #[serde(rename = "crate")]
    name: String,
    allow: BTreeSet<String>,
}

/// What the licence of a package is that does not say so itself.
#[derive(Deserialize)]
struct Clarification {
    /// `name@version`: another version has to be looked at again.
    #[serde(rename = "crate")]
    package: String,
    expression: String,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Deserialize)]
struct Ban {
    name: String,
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
struct Sources {
    #[serde(rename = "allow-registry")]
    allow_registry: BTreeSet<String>,
}

/// What `cargo metadata` says of one package.
#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

/// Checks every package in Cargo.lock.
pub fn check(ctx: &Ctx) -> Result<()> {
    let text = fs::read_to_string(ctx.root.join("deny.toml")).context("read deny.toml")?;
    let policy: Policy = toml::from_str(&text).context("read deny.toml")?;
    let json = capture(guest::cargo(ctx).args(["metadata", "--format-version", "1"]))?;
    let metadata: Metadata = serde_json::from_str(&json).context("read cargo's metadata")?;
    let faults: Vec<String> = metadata.packages.iter().filter_map(|package| fault(&policy, package)).collect();
    if !faults.is_empty() {
        bail!("{}", faults.join("; "));
    }
    ctx.ui.line("lint", &format!("{} packages: licences, sources and bans", metadata.packages.len()));
    Ok(())
}

fn fault(policy: &Policy, package: &Package) -> Option<String> {
    let Package { name, version, license, source } = package;
    if let Some(ban) = policy.bans.deny.iter().find(|ban| ban.name == *name) {
        return Some(format!("{name} {version} is banned: {}", ban.reason));
    }
    // Without a source it is part of this workspace.
    let registry = source.as_deref().map(|source| source.strip_prefix("registry+").unwrap_or(source));
    if registry.is_some_and(|registry| !policy.sources.allow_registry.contains(registry)) {
        return Some(format!("{name} {version} comes from {}", source.as_deref().unwrap_or_default()));
    }
    let clarified = policy.licenses.clarify.iter().find(|entry| entry.package == format!("{name}@{version}"));
    let Some(license) = clarified.map(|entry| &entry.expression).or(license.as_ref()) else {
        return Some(format!("{name} {version} names no licence"));
    };
    let mut allowed = policy.licenses.allow.clone();
    allowed.extend(policy.licenses.exceptions.iter().filter(|entry| entry.name == *name).flat_map(|entry| entry.allow.clone()));
    match Expression::evaluate(license, &allowed) {
        Some(true) => None,
        Some(false) => Some(format!("{name} {version} is under {license}, which deny.toml does not allow")),
        None => Some(format!("{name} {version} has an unreadable licence: {license}")),
    }
}

/// An SPDX licence expression (SPDX 2.3 annex D) being read: `OR` of `AND` of names and parentheses.
struct Expression<'a> {
    tokens: Vec<String>,
    next: usize,
    allowed: &'a BTreeSet<String>,
}

impl<'a> Expression<'a> {
    /// Whether the allowed licences satisfy `text`; `None` if it is no expression.
    fn evaluate(text: &str, allowed: &'a BTreeSet<String>) -> Option<bool> {
        // Old manifests write "MIT/Apache-2.0" for "MIT OR Apache-2.0".
        let text = text.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
        let tokens = text.split_whitespace().map(str::to_owned).collect();
        let mut expression = Self { tokens, next: 0, allowed };
        let value = expression.any()?;
        (expression.next == expression.tokens.len()).then_some(value)
    }

    fn any(&mut self) -> Option<bool> {
        let mut value = self.all()?;
        while self.take("OR") {
            value |= self.all()?;
        }
        Some(value)
    }

    fn all(&mut self) -> Option<bool> {
        let mut value = self.one()?;
        while self.take("AND") {
            value &= self.one()?;
        }
        Some(value)
    }

    fn one(&mut self) -> Option<bool> {
        if self.take("(") {
            let value = self.any()?;
            return self.take(")").then_some(value);
        }
        let mut name = self.tokens.get(self.next)?.clone();
        if ["OR", "AND", "WITH", ")"].contains(&name.as_str()) {
            return None;
        }
        self.next += 1;
        if self.take("WITH") {
            name = format!("{name} WITH {}", self.tokens.get(self.next)?);
            self.next += 1;
        }
        Some(self.allowed.contains(&name))
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.tokens.get(self.next).is_some_and(|token| token == word);
        self.next += usize::from(found);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        toml::from_str(
            "[licenses]\nallow = [\"MIT\", \"Apache-2.0\", \"Apache-2.0 WITH LLVM-exception\"]\n\
             exceptions = [{ crate = \"paths\", allow = [\"MPL-2.0\"] }]\n\
             clarify = [{ crate = \"silent@1.0.0\", expression = \"MIT\" }]\n\
             [bans]\ndeny = [{ name = \"openssl\", reason = \"static guests\" }]\n\
             [sources]\nallow-registry = [\"https://registry.example/index\"]\n",
        )
        .unwrap()
    }

    fn package(name: &str, license: Option<&str>, source: Option<&str>) -> Package {
        Package {
            name: name.into(),
            version: "1.0.0".into(),
            license: license.map(str::to_owned),
            source: source.map(str::to_owned),
        }
    }

    #[test]
    fn expressions_follow_spdx() {
        let allowed = policy().licenses.allow;
        let value = |text| Expression::evaluate(text, &allowed);
        assert_eq!(value("MIT"), Some(true));
        assert_eq!(value("GPL-3.0-only OR MIT"), Some(true));
        assert_eq!(value("GPL-3.0-only AND MIT"), Some(false));
        assert_eq!(value("(GPL-3.0-only OR MIT) AND Apache-2.0"), Some(true));
        assert_eq!(value("Apache-2.0 WITH LLVM-exception OR Zlib"), Some(true));
        assert_eq!(value("Apache-2.0 WITH Other-exception"), Some(false));
        assert_eq!(value("MIT/GPL-2.0"), Some(true));
        assert_eq!(value("MIT AND"), None);
        assert_eq!(value("(MIT"), None);
    }

    #[test]
    fn faults_are_found() {
        let policy = policy();
        let registry = Some("registry+https://registry.example/index");
        assert_eq!(fault(&policy, &package("serde", Some("MIT"), registry)), None);
        assert_eq!(fault(&policy, &package("ours", Some("Apache-2.0"), None)), None);
        assert_eq!(fault(&policy, &package("paths", Some("MPL-2.0 OR LGPL-3.0-or-later"), registry)), None);
        assert_eq!(fault(&policy, &package("silent", None, registry)), None);
        let text = |package| fault(&policy, &package).unwrap();
        assert!(text(package("openssl", Some("MIT"), registry)).contains("banned: static guests"));
        assert!(text(package("x", Some("MIT"), Some("git+https://elsewhere.example/x"))).contains("comes from"));
        assert!(text(package("x", Some("AGPL-3.0-only"), registry)).contains("does not allow"));
        assert!(text(package("x", None, registry)).contains("names no licence"));
        assert!(text(package("x", Some("MPL-2.0"), registry)).contains("does not allow"));
    }
}
