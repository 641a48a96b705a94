//! Packages of other suites and architectures, without touching the machine's own package state.
//!
//! Each `AptRoot` is a private apt directory: its own lists, its own (empty) package database, the mirrors of the
//! machine's own sources. apt checks the signatures of the lists against Debian's archive keys, and the lists
//! carry the digest of every package; each download is compared with that digest again before it is unpacked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::cache::{file_digest, remove_tree};
use crate::ctx::Ctx;
use crate::run::{Log, capture, is_in_vain};

/// Debian's archive keys, from the package debian-archive-keyring.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// A mirror in the middle of an update answers with lists that do not fit together; it is asked this often for each name of
/// the release.
const UPDATE_ATTEMPTS: usize = 2;
/// The releases' other names. A caching mirror keeps signatures and lists per name, so one of the two may fit together when the
/// other does not. Which release a name stands for is checked in what arrives.
const OTHER_NAMES: &[(&str, &str)] = &[("bookworm", "oldstable"), ("trixie", "stable"), ("forky", "testing")];

/// Which packages a private root can see.
pub struct Suite {
    /// Debian's name of the release: `bookworm`, `trixie`.
    pub release: String,
    /// Debian's name of the architecture whose packages are looked for first.
    pub arch: String,
    /// Whether the security archive is read too. Its lists for ppc64el are not always in step with their
    /// signatures on mirrors, so foreign packages come from the release itself.
    pub security: bool,
}

/// One package file, as the signed lists describe it.
#[derive(Clone, Debug)]
pub struct Deb {
    /// Name of the file: package, version, architecture.
    pub file: String,
    /// SHA-256 from the lists.
    pub sha256: String,
    /// Where the checked file is after a download.
    pub path: PathBuf,
}

/// A private apt directory with signed lists.
pub struct AptRoot<'a> {
    ctx: &'a Ctx,
    suite: Suite,
    dir: PathBuf,
    log: Log,
}

impl<'a> AptRoot<'a> {
    /// Opens the root for `suite`, fetching its lists if they are not there.
    pub fn open(ctx: &'a Ctx, suite: Suite) -> Result<Self> {
        let archives = if suite.security { "-with-security" } else { "" };
        let name = format!("apt-{}-{}{archives}", suite.release, suite.arch);
        let dir = ctx.cache.root().join("apt").join(&name);
        let log = Log::create(ctx.cache.logs().join(format!("{name}.log")))?;
        let root = Self { ctx, suite, dir, log };
        if !root.dir.join("complete").exists() {
            root.refresh()?;
        }
        Ok(root)
    }

    /// Fetches the lists again.
    pub fn refresh(&self) -> Result<()> {
        ensure!(
            !self.ctx.offline,
            "the package lists of {} {} are not cached: run once without --offline",
            self.suite.release,
            self.suite.arch
        );
        self.ctx.ui.line("packages", &format!("lists of {} {}", self.suite.release, self.suite.arch));
        let release = self.suite.release.as_str();
        let other = OTHER_NAMES.iter().find(|(codename, _)| *codename == release).map(|(_, other)| *other);
        let mut names: Vec<&str> = [Some(release), other].into_iter().flatten().collect();
        let last = names.pop().unwrap_or(release);
        for name in names {
            match self.update(name) {
                Ok(()) => return Ok(()),
                Err(error) if is_in_vain(&error) => return Err(error),
                Err(_) => {}
            }
            self.ctx.ui.line("packages", &format!("the mirror's lists of {name} do not fit its signature: trying {last}"));
        }
        self.update(last)
    }

    /// Fetches the lists of the release under one of its names.
    fn update(&self, name: &str) -> Result<()> {
        remove_tree(&self.dir)?;
        for sub in ["etc/apt.conf.d", "etc/preferences.d", "lists/partial", "archives/partial"] {
            fs::create_dir_all(self.dir.join(sub))?;
        }
        fs::write(self.dir.join("status"), b"")?;
        fs::write(self.dir.join("etc/sources.list"), self.sources(name)?)?;
        fs::write(self.dir.join("apt.conf"), self.configuration())?;
        for attempt in 1.. {
            let mut update = self.apt("apt-get");
            update.args(["update", "-q", "-o", "APT::Update::Error-Mode=any"]);
            match self.log.run(&mut update, None).and_then(|()| self.check_codename()) {
                Ok(()) => break,
                Err(error) if attempt >= UPDATE_ATTEMPTS || is_in_vain(&error) => {
                    // The first error is the one that tells.
                    let _ = remove_tree(&self.dir);
                    return Err(error);
                }
                Err(_) => self.ctx.ui.line("packages", "the mirror's answer was not complete: asking again"),
            }
        }
        fs::write(self.dir.join("complete"), b"")?;
        Ok(())
    }

    /// Every signed list is of the release that was asked for, whatever name it came under.
    fn check_codename(&self) -> Result<()> {
        let release = &self.suite.release;
        for entry in fs::read_dir(self.dir.join("lists"))? {
            let path = entry?.path();
            if path.to_string_lossy().ends_with("InRelease") {
                let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
                let codename = codename(&text).with_context(|| format!("{} names no release", path.display()))?;
                ensure!(
                    codename == release || codename.strip_suffix("-security") == Some(release),
                    "{} is of {codename}, not of {release}",
                    path.display()
                );
            }
        }
        Ok(())
    }

    /// The newest version of `package`, as the lists have it.
    pub fn candidate(&self, package: &str) -> Result<String> {
        let mut command = self.apt("apt-cache");
        let text = capture(command.args(["policy", package]))?;
        let version = text.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
        match version {
            Some(version) if version != "(none)" => Ok(version.to_owned()),
            _ => bail!(
                "{} {} has no package {package}: `cargo xtask setup --refresh` fetches new lists",
                self.suite.release,
                self.suite.arch
            ),
        }
    }

    /// The packages that `package` depends on directly.
    pub fn depends(&self, package: &str) -> Result<Vec<String>> {
        let text = capture(self.apt("apt-cache").args(["depends", "--no-recommends", package]))?;
        let names = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(names.map(str::to_owned).collect())
    }

    /// Exactly these packages (`name`, `name=version` or `name:arch`), without what they depend on.
    pub fn packages(&self, names: &[&str]) -> Result<Vec<Deb>> {
        self.uris(self.apt("apt-get").args(["download", "--print-uris"]).args(names))
    }

    /// These packages and all they depend on, as for an empty machine.
    pub fn closure(&self, names: &[&str]) -> Result<Vec<Deb>> {
        let mut command = self.apt("apt-get");
        command.args(["install", "--simulate", "-qq", "--no-install-recommends"]);
        let plan = self.log.output(command.args(names))?;
        let plan = String::from_utf8_lossy(&plan);
        // Inst NAME (VERSION SUITE [ARCH])
        let mut pins = Vec::new();
        for line in plan.lines().filter_map(|line| line.strip_prefix("Inst ")) {
            let (name, rest) = line.split_once(" (").with_context(|| format!("apt printed: {line}"))?;
            let version = rest.split_whitespace().next().unwrap_or_default();
            pins.push(format!("{name}={version}"));
        }
        self.packages(&pins.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Downloads what is missing and checks every digest.
    pub fn fetch(&self, debs: &[Deb]) -> Result<()> {
        let missing: Vec<&Deb> = debs.iter().filter(|deb| !is_intact(deb)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        for deb in &missing {
            let damaged = deb.path.exists();
            match damaged {
                true if self.ctx.offline => bail!("{} is damaged in the cache: run once without --offline", deb.file),
                false if self.ctx.offline => bail!("{} is not cached: run once without --offline", deb.file),
                true => self.ctx.ui.line("packages", &format!("{} is damaged in the cache: fetching it again", deb.file)),
                false => {}
            }
        }
        let partial = self.ctx.cache.stage("download", &self.suite.arch)?;
        let mut progress = self.ctx.ui.progress("packages", Some(missing.len() as u64));
        self.ctx.ui.line("packages", &format!("downloading {} from {}", missing.len(), self.suite.release));
        // apt-get download wants names; file names have the version with ':' escaped.
        for chunk in missing.chunks(32) {
            let names = chunk.iter().map(|deb| pin(&deb.file)).collect::<Result<Vec<_>>>()?;
            let mut download = self.apt("apt-get");
            download.current_dir(&partial).args(["download", "-q"]).args(names);
            self.log.run(&mut download, Some(&mut progress))?;
        }
        for deb in missing {
            let fetched = partial.join(&deb.file);
            let digest = file_digest(&fetched)?;
            ensure!(digest == deb.sha256, "{} arrived damaged (digest {digest}, wanted {}): run again", deb.file, deb.sha256);
            fs::rename(&fetched, &deb.path).with_context(|| format!("keep {}", deb.path.display()))?;
        }
        remove_tree(&partial)
    }

    /// Unpacks fetched packages below `dir`. Nothing in them is executed.
    pub fn unpack(&self, debs: &[Deb], dir: &Path) -> Result<()> {
        for deb in debs {
            self.log.run(Command::new("dpkg-deb").arg("-x").arg(&deb.path).arg(dir), None)?;
        }
        Ok(())
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.dir.join("apt.conf")).env("LC_ALL", "C");
        command
    }

    /// Lines of `--print-uris`: `'URI' file size SHA256:digest`.
    fn uris(&self, command: &mut Command) -> Result<Vec<Deb>> {
        let text = self.log.output(command)?;
        let text = String::from_utf8_lossy(&text);
        let mut debs = Vec::new();
        for line in text.lines().filter(|line| line.starts_with('\'')) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (file, digest) = match fields.as_slice() {
                [_, file, _, digest] => (*file, digest.strip_prefix("SHA256:")),
                _ => bail!("apt printed an unexpected line: {line}"),
            };
            let sha256 = digest.with_context(|| format!("apt knows no SHA-256 of {file}"))?.to_owned();
            let path = self.ctx.cache.downloads().join(format!("{sha256}.deb"));
            debs.push(Deb { file: file.to_owned(), sha256, path });
        }
        ensure!(!debs.is_empty(), "apt found no packages; its log: {}", self.log.path().display());
        debs.sort_by(|a, b| a.file.cmp(&b.file));
        Ok(debs)
    }

    fn sources(&self, release: &str) -> Result<String> {
        ensure!(Path::new(KEYRING).exists(), "Debian's archive keys are missing: apt-get install debian-archive-keyring");
        let mirrors = Mirrors::of_this_machine()?;
        let options = format!("[arch={} signed-by={KEYRING}]", self.suite.arch);
        let mut text = format!("deb {options} {} {release} main\n", mirrors.archive);
        if self.suite.security {
            text += &format!("deb {options} {} {release}-security main\n", mirrors.security);
        }
        Ok(text)
    }

    fn configuration(&self) -> String {
        let dir = self.dir.display();
        let arch = &self.suite.arch;
        // Suites that have reached their end keep their signatures but not their dates.
        format!(
            "Dir \"{dir}\";\nDir::Etc \"{dir}/etc\";\nDir::Etc::sourcelist \"{dir}/etc/sources.list\";\n\
             Dir::Etc::sourceparts \"/dev/null\";\nDir::Etc::parts \"{dir}/etc/apt.conf.d\";\n\
             Dir::State \"{dir}\";\nDir::State::lists \"{dir}/lists\";\nDir::State::status \"{dir}/status\";\n\
             Dir::Cache \"{dir}\";\nDir::Cache::archives \"{dir}/archives\";\n\
             APT::Architecture \"{arch}\";\nAPT::Architectures {{ \"{arch}\"; }};\nAPT::Sandbox::User \"\";\n\
             Acquire::Languages \"none\";\nAcquire::Check-Valid-Until \"false\";\nAcquire::Retries \"3\";\n"
        )
    }
}

/// The field `Codename` of a signed list.
fn codename(release: &str) -> Option<&str> {
    release.lines().find_map(|line| line.strip_prefix("Codename:")).map(str::trim)
}

fn is_intact(deb: &Deb) -> bool {
    file_digest(&deb.path).is_ok_and(|digest| digest == deb.sha256)
}

/// `name_version_arch.deb` as the `name:arch=version` that apt takes.
fn pin(file: &str) -> Result<String> {
    let stem = file.strip_suffix(".deb").unwrap_or(file);
    let parts: Vec<&str> = stem.split('_').collect();
    let [name, version, arch] = parts.as_slice() else {
        bail!("not the name of a package file: {file}");
    };
    let version = version.replace("%3a", ":").replace("%7e", "~").replace("%2b", "+");
    Ok(match *arch {
        "all" => format!("{name}={version}"),
        arch => format!("{name}:{arch}={version}"),
    })
}

/// Where this machine gets its Debian from.
#[derive(Debug, PartialEq, Eq)]
struct Mirrors {
    archive: String,
    security: String,
}

impl Mirrors {
    fn of_this_machine() -> Result<Self> {
        let mut text = String::new();
        let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
        if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
            files.extend(entries.flatten().map(|entry| entry.path()));
        }
        files.sort();
        for file in files {
            let known = file.extension().is_some_and(|ext| ext == "list" || ext == "sources");
            if known && let Ok(content) = fs::read_to_string(&file) {
                text += &content;
                text.push('\n');
            }
        }
        Self::parse(&text)
            .context("this machine's apt sources name no Debian mirror: Debian 12 or later is needed to build the guest's parts")
    }

    /// Reads both forms of sources: one line each, and paragraphs of fields.
    fn parse(text: &str) -> Option<Self> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        let mut uri = String::new();
        for line in text.lines() {
            let line = line.trim();
            if let Some(value) = line.strip_prefix("URIs:") {
                uri = value.split_whitespace().next().unwrap_or("").to_owned();
            } else if let Some(value) = line.strip_prefix("Suites:") {
                pairs.extend(value.split_whitespace().map(|suite| (uri.clone(), suite.to_owned())));
            } else if let Some(rest) = line.strip_prefix("deb ") {
                let rest = match rest.trim().strip_prefix('[') {
                    Some(options) => options.split_once(']').map_or("", |(_, rest)| rest),
                    None => rest,
                };
                let mut words = rest.split_whitespace();
                if let (Some(uri), Some(suite)) = (words.next(), words.next()) {
                    pairs.push((uri.to_owned(), suite.to_owned()));
                }
            }
        }
        let is_debian = |uri: &str| uri.trim_end_matches('/').ends_with("/debian");
        let archive = pairs.iter().find(|(uri, _)| is_debian(uri)).map(|(uri, _)| uri.clone())?;
        let security = pairs
            .iter()
            .find(|(uri, suite)| suite.ends_with("-security") && uri.contains("debian-security"))
            .map(|(uri, _)| uri.clone())
            .unwrap_or_else(|| format!("{}-security", archive.trim_end_matches('/')));
        Some(Self { archive, security })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_come_from_either_form_of_sources() {
        let wanted = Mirrors {
            archive: "https://mirror.example/debian".into(),
            security: "https://mirror.example/debian-security".into(),
        };
        let fields = "Types: deb\nURIs: https://mirror.example/debian\nSuites: bookworm bookworm-updates\n\n\
                      Types: deb\nURIs: https://mirror.example/debian-security\nSuites: bookworm-security\n";
        assert_eq!(Mirrors::parse(fields).as_ref(), Some(&wanted));
        let lines = "deb [arch=amd64 signed-by=/k] https://mirror.example/debian bookworm main\n\
                     deb https://mirror.example/debian-security bookworm-security main\n";
        assert_eq!(Mirrors::parse(lines).as_ref(), Some(&wanted));
        let alone = "deb https://other.example/tools stable main\ndeb https://mirror.example/debian bookworm main\n";
        assert_eq!(Mirrors::parse(alone).as_ref(), Some(&wanted));
        assert_eq!(Mirrors::parse("deb https://other.example/tools stable main\n"), None);
    }

    #[test]
    fn a_signed_list_tells_its_release() {
        assert_eq!(codename("Origin: Debian\nSuite: stable\nCodename: trixie\n"), Some("trixie"));
        assert_eq!(codename("Origin: Debian\n"), None);
    }

    #[test]
    fn file_names_become_pins() {
        assert_eq!(pin("busybox-static_1%3a1.35.0-4_ppc64el.deb").unwrap(), "busybox-static:ppc64el=1:1.35.0-4");
        assert_eq!(pin("rust-src_1.96.0+dfsg1-1~deb12u2_all.deb").unwrap(), "rust-src=1.96.0+dfsg1-1~deb12u2");
        assert!(pin("nonsense.deb").is_err());
    }
}
