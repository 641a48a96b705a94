//! A Docker, and the ways the tests speak to it.

use std::thread;
use std::time::{Duration, Instant};

use paperboat_e2e::docker::Docker;
use paperboat_e2e::host::{RUNTIME, image};
use paperboat_e2e::leaks::Leftovers;
use paperboat_e2e::products::Docker as Release;
use paperboat_e2e::{Output, expect};

/// What becomes of a container shows within this time.
const NOTICE_TIMEOUT: Duration = Duration::from_secs(120);

/// Pause between two looks.
const POLL: Duration = Duration::from_millis(100);

/// Waits until something is so; what fails tells `what`.
#[track_caller]
pub fn until(mut is_so: impl FnMut() -> bool, what: impl Fn() -> String) {
    let deadline = Instant::now() + NOTICE_TIMEOUT;
    while !is_so() {
        assert!(Instant::now() < deadline, "{}", what());
        thread::sleep(POLL);
    }
}

/// A Docker with one way of running busybox.
pub struct Ship {
    pub docker: Docker,
    before: Leftovers,
    options: Vec<String>,
}

impl Ship {
    pub fn start(release: Release) -> Self {
        Self::start_with(release, "{}", &["--runtime", RUNTIME, "--network", "none"])
    }

    pub fn start_with(release: Release, daemon: &str, options: &[&str]) -> Self {
        let docker = Docker::start_with(release, "", daemon).unwrap_or_else(|error| panic!("{error}"));
        let before = docker.host().leftovers();
        Self { docker, before, options: options.iter().map(|&option| option.to_owned()).collect() }
    }

    pub fn docker(&self, arguments: &[&str]) -> Output {
        self.docker.docker(arguments).unwrap()
    }

    /// The same, and it must go well. Returns what it printed.
    #[track_caller]
    pub fn done(&self, arguments: &[&str]) -> String {
        let output = self.docker(arguments);
        assert_eq!(output.code(), Some(0), "{arguments:?}: {output:#?}\n{}", self.docker.host().log());
        output.stdout
    }

    pub fn words<'a>(&'a self, options: &[&'a str], image: &'a str, command: &[&'a str]) -> Vec<&'a str> {
        let own = self.options.iter().map(String::as_str);
        ["run"].into_iter().chain(own).chain(options.iter().copied()).chain([image]).chain(command.iter().copied()).collect()
    }

    pub fn run(&self, options: &[&str], command: &[&str]) -> Output {
        self.docker(&self.words(options, &image("busybox"), command))
    }

    /// Starts a container in the background.
    #[track_caller]
    pub fn detached(&self, options: &[&str], command: &[&str]) {
        let output = self.run(&[&["--detach"], options].concat(), command);
        expect::code(self.docker.host(), &output, 0);
    }

    /// What was there before any container.
    pub fn before(&self) -> &Leftovers {
        &self.before
    }

    /// Runs a script in a container of its own to a good end, and returns what it printed.
    #[track_caller]
    pub fn script(&self, options: &[&str], script: &str) -> String {
        let output = self.run(&[options, &["--rm"]].concat(), &["sh", "-c", script]);
        assert_eq!(output.code(), Some(0), "{script}: {output:#?}\n{}", self.docker.host().log());
        output.stdout.trim_end().to_owned()
    }

    #[track_caller]
    pub fn exec(&self, name: &str, script: &str) -> String {
        self.done(&["exec", name, "sh", "-c", script]).trim_end().to_owned()
    }

    pub fn inspect(&self, name: &str, format: &str) -> String {
        self.done(&["inspect", "--format", format, name]).trim_end().to_owned()
    }

    #[track_caller]
    pub fn wait_until(&self, name: &str, format: &str, wanted: &str) {
        until(|| self.inspect(name, format) == wanted, || format!("{format} is {}, not {wanted}", self.inspect(name, format)));
    }

    /// What the web server at an address of the daemon's network namespace has, once it answers.
    #[track_caller]
    pub fn fetch(&self, server: &str) -> String {
        let server = server.parse().unwrap_or_else(|error| panic!("{server}: {error}"));
        let mut page = Err(String::new());
        let fetched = || {
            page = self.docker.host().fetch(server).map_err(|error| error.to_string());
            page.is_ok()
        };
        until(fetched, || format!("{server} does not answer\n{}", self.docker.host().log()));
        page.unwrap_or_default().trim_end().to_owned()
    }

    #[track_caller]
    pub fn expect_nothing_left(&self) {
        expect::nothing_left(self.docker.host(), &self.before);
    }
}
