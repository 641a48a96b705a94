//! What tests expect; each failure tells all there is to know.

use crate::guest::{Proof, ThisHost};
use crate::leaks::{self, Leftovers};
use crate::{Host, Output};

/// Fails with all there is to know if the command did not end with `code`.
#[track_caller]
pub fn code(host: &Host, output: &Output, code: i32) {
    assert_eq!(output.code(), Some(code), "{output:#?}\n--- containerd's log ---\n{}", host.log());
}

/// Fails unless each of the words is in the text.
#[track_caller]
pub fn words(host: &Host, text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in:\n{text}\n--- containerd's log ---\n{}", host.log());
    }
}

/// Fails if something is left that was not there before.
#[track_caller]
pub fn nothing_left(host: &Host, before: &Leftovers) {
    let left = leaks::settle(host, before);
    assert!(left.is_empty(), "left behind: {left:#?}\n--- containerd's log ---\n{}", host.log());
}

/// Fails unless the output proves a guest of ours.
#[track_caller]
pub fn guest(output: &str) -> Proof {
    let proof = Proof::parse(output).unwrap_or_else(|| panic!("no proof in:\n{output}"));
    let host = ThisHost::look().unwrap_or_else(|error| panic!("/proc: {error}"));
    assert_eq!(proof.doubt(&host), None, "{output}");
    proof
}
