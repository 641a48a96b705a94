//! The tables in docs/partition.md are the program's.

use std::collections::BTreeSet;

use paperboat_microvm::papr::{hcall, rtas};
use paperboat_softcpu::SERVED_HYPERCALLS;

/// Rows of the page's tables with `columns` columns, headings left out.
fn rows(columns: usize) -> BTreeSet<String> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/partition.md")).unwrap();
    let is_row = |line: &&str| line.starts_with("| ") && line.matches('|').count() == columns + 1;
    page.lines().filter(is_row).filter(|line| !line.contains(" section |")).map(str::to_owned).collect()
}

#[test]
fn the_page_has_exactly_the_calls_that_are_served() {
    let machine = hcall::CALLS.iter().map(|row| format!("| {:#x} | {} | {} | machine |", row.token, row.name, row.section));
    let cpu = SERVED_HYPERCALLS.iter().map(|(token, name, section)| format!("| {token:#x} | {name} | {section} | CPU |"));
    let runtime = rtas::CALLS.iter().map(|row| {
        let returns = match row.nrets {
            (least, most) if least == most => least.to_string(),
            (least, most) => format!("{least} to {most}"),
        };
        format!("| {} | {} | {returns} | {} |", row.name, row.nargs, row.section)
    });
    let expected: BTreeSet<String> = machine.chain(cpu).chain(runtime).collect();
    let page = rows(4);
    assert_eq!(expected.difference(&page).collect::<Vec<_>>(), Vec::<&String>::new(), "missing in the page");
    assert_eq!(page.difference(&expected).collect::<Vec<_>>(), Vec::<&String>::new(), "in the page only");
}
