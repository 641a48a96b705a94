//! What a run came to: a table for a reader who has seen nothing of it, and where the output of what failed is.

use std::fmt::{Display, Formatter, Result, Write};
use std::path::PathBuf;
use std::time::Duration;

use crate::cli::LabMachine;
use crate::ui::duration;

/// Width of a machine's column.
const COLUMN: usize = 13;

/// What became of a case.
#[derive(Debug, PartialEq, Eq)]
pub enum Ending {
    Passed,
    /// And why.
    Failed(String),
    /// The lab had ended before.
    NotRun,
}

/// A case on one machine.
pub struct Outcome {
    pub case: String,
    pub ending: Ending,
    pub took: Duration,
    pub tests: Tests,
    /// Its whole output.
    pub log: PathBuf,
}

/// What test programs say of their tests.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tests {
    pub passed: u64,
    pub failed: Vec<String>,
    pub left_out: u64,
}

/// One machine's part of a run.
pub struct Report {
    pub machine: LabMachine,
    pub outcomes: Vec<Outcome>,
    /// What kept it from going to its end.
    pub trouble: Option<String>,
    /// Why nothing was run: there was no need.
    pub skipped: Option<String>,
    pub took: Duration,
    /// What the lab's console said.
    pub console: PathBuf,
}

impl Tests {
    /// From the output of a test program: the line of its result, and the headings of what failing tests printed.
    pub fn of(output: &str) -> Self {
        let mut tests = Self::default();
        for line in output.lines() {
            if let Some(counts) = line.strip_prefix("test result: ") {
                let count = |what: &str| {
                    let words = counts.split([';', '.']).find_map(|part| part.trim().strip_suffix(what));
                    words.and_then(|number| number.trim().parse::<u64>().ok()).unwrap_or(0)
                };
                tests.passed += count("passed");
                tests.left_out += count("filtered out");
            } else if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----")) {
                tests.failed.push(name.to_owned());
            }
        }
        tests
    }
}

impl Report {
    /// Everything that was to be run passed.
    pub fn passed(&self) -> bool {
        self.trouble.is_none() && self.outcomes.iter().all(|outcome| outcome.ending == Ending::Passed)
    }

    /// One line: cases, tests, time.
    pub fn summary(&self) -> String {
        let mut line = format!("lab {}: ", self.machine.name());
        if let Some(why) = &self.skipped {
            return line + why;
        }
        let cases = |which: fn(&Ending) -> bool| self.outcomes.iter().filter(|outcome| which(&outcome.ending)).count();
        line += &format!("{} of {} cases passed", cases(|ending| *ending == Ending::Passed), self.outcomes.len());
        let more = [
            (cases(|ending| matches!(ending, Ending::Failed(_))), "failed"),
            (cases(|ending| *ending == Ending::NotRun), "not run"),
        ];
        line.extend(more.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!(", {count} {what}")));
        let sum = |count: fn(&Tests) -> u64| self.outcomes.iter().map(|outcome| count(&outcome.tests)).sum::<u64>();
        let (passed, failed) = (sum(|tests| tests.passed), sum(|tests| tests.failed.len() as u64));
        line += &format!("; tests in them: {passed} passed, {failed} failed, {} left out; ", sum(|tests| tests.left_out));
        line + &duration(self.took)
    }
}

/// The reports of a run, as it is shown at its end.
pub struct Summary<'a>(pub &'a [Report]);

impl Summary<'_> {
    /// Machines on which something is wrong.
    pub fn failed(&self) -> Vec<&'static str> {
        self.0.iter().filter(|report| !report.passed()).map(|report| report.machine.name()).collect()
    }

    /// A row for each case, a column for each machine: how long it took, unless it did not pass there.
    fn table(&self, f: &mut Formatter<'_>) -> Result {
        let mut cases: Vec<&str> = Vec::new();
        for outcome in self.0.iter().flat_map(|report| &report.outcomes) {
            if !cases.contains(&outcome.case.as_str()) {
                cases.push(&outcome.case);
            }
        }
        if cases.is_empty() {
            return Ok(());
        }
        let row = |f: &mut Formatter<'_>, cell: &dyn Fn(&Report) -> String, name: &str| {
            let mut line = String::new();
            for report in self.0 {
                write!(line, "{:>COLUMN$}", cell(report))?;
            }
            writeln!(f, "{}", format!("{line}  {name}").trim_end())
        };
        row(f, &|report| report.machine.name().into(), "")?;
        for case in cases {
            let cell = |report: &Report| match report.outcomes.iter().find(|outcome| outcome.case == case) {
                None => String::new(),
                Some(Outcome { ending: Ending::Passed, took, .. }) => duration(*took),
                Some(Outcome { ending: Ending::Failed(_), .. }) => "FAILED".into(),
                Some(Outcome { ending: Ending::NotRun, .. }) => "not run".into(),
            };
            row(f, &cell, case)?;
        }
        writeln!(f)
    }
}

impl Display for Summary<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        self.table(f)?;
        for report in self.0 {
            writeln!(f, "{}", report.summary())?;
        }
        for report in self.0 {
            let machine = report.machine.name();
            for outcome in &report.outcomes {
                let Ending::Failed(why) = &outcome.ending else { continue };
                writeln!(f, "\nFAILED on {machine} after {}: {}", duration(outcome.took), outcome.case)?;
                writeln!(f, "  {}", why.lines().next().unwrap_or_default())?;
                for test in &outcome.tests.failed {
                    writeln!(f, "  test {test}")?;
                }
                writeln!(f, "  its output: {}", outcome.log.display())?;
                writeln!(f, "  the console: {}", report.console.display())?;
            }
            if let Some(trouble) = &report.trouble {
                writeln!(f, "\n{machine} did not come to its end: {trouble}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "running 3 tests\ntest first ... ok\ntest second ... FAILED\ntest third ... noise of it\nok\n\nfailures:\n\n\
        ---- second stdout ----\n\nthread 'second' panicked\n\nfailures:\n    second\n\n\
        test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 8 filtered out; finished in 36.96s\n";

    fn outcome(case: &str, ending: Ending, output: &str) -> Outcome {
        let log = PathBuf::from(format!("/logs/{case}.log"));
        Outcome { case: case.into(), ending, took: Duration::from_secs(70), tests: Tests::of(output), log }
    }

    fn report(machine: LabMachine, outcomes: Vec<Outcome>) -> Report {
        Report { machine, outcomes, trouble: None, skipped: None, took: Duration::from_secs(700), console: "/console".into() }
    }

    #[test]
    fn tests_are_counted_and_those_that_failed_named() {
        assert_eq!(Tests::of(OUTPUT), Tests { passed: 2, failed: vec!["second".into()], left_out: 8 });
        let two = "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 1 filtered out; finished in 1s\n".repeat(2);
        assert_eq!(Tests::of(&two), Tests { passed: 6, failed: vec![], left_out: 2 });
        assert_eq!(Tests::of("no program of tests"), Tests::default());
    }

    #[test]
    fn a_failure_is_in_the_table_and_has_its_log() {
        let reports = [
            report(LabMachine::Powernv8, vec![outcome("boots", Ending::Passed, ""), outcome("pods", Ending::Passed, "")]),
            report(
                LabMachine::Powernv9,
                vec![outcome("boots", Ending::Failed("exit status 101".into()), OUTPUT), outcome("pods", Ending::NotRun, "")],
            ),
        ];
        let summary = Summary(&reports);
        assert_eq!(summary.failed(), ["powernv9"]);
        let text = summary.to_string();
        let expected = "     powernv8     powernv9
   1 min 10 s       FAILED  boots
   1 min 10 s      not run  pods

lab powernv8: 2 of 2 cases passed; tests in them: 0 passed, 0 failed, 0 left out; 11 min 40 s
lab powernv9: 0 of 2 cases passed, 1 failed, 1 not run; tests in them: 2 passed, 1 failed, 8 left out; 11 min 40 s

FAILED on powernv9 after 1 min 10 s: boots
  exit status 101
  test second
  its output: /logs/boots.log
  the console: /console
";
        assert!(text.lines().map(str::trim_end).eq(expected.lines()), "{text}");
    }

    #[test]
    fn a_machine_that_did_not_boot_has_not_passed() {
        let trouble = Report { trouble: Some("no boot".into()), ..report(LabMachine::Powernv10, Vec::new()) };
        assert!(!trouble.passed());
        assert!(Summary(&[trouble]).to_string().contains("powernv10 did not come to its end: no boot"));
        let skipped = Report { skipped: Some("not run: passed before".into()), ..report(LabMachine::Powernv9, Vec::new()) };
        assert_eq!(skipped.summary(), "lab powernv9: not run: passed before");
    }
}
