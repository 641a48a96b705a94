//! Every input of the corpora, and mutations of them. `PAPERBOAT_SEED` and `PAPERBOAT_FUZZ_ROUNDS` choose the sequence and its length.

use paperboat_fuzz::mutate::{Random, mutated};
use paperboat_fuzz::{TARGETS, corpus};

fn from_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

fn runs(name: &str, usual_rounds: u64) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let inputs = corpus::load(name).unwrap();
    assert!(inputs.len() >= 5, "{name} has {} inputs", inputs.len());
    for (file, input) in &inputs {
        println!("{file}");
        (target.run)(input);
    }
    let (seed, rounds) = (from_environment("PAPERBOAT_SEED", 1), from_environment("PAPERBOAT_FUZZ_ROUNDS", usual_rounds));
    println!("PAPERBOAT_SEED={seed} PAPERBOAT_FUZZ_ROUNDS={rounds}");
    let inputs: Vec<Vec<u8>> = inputs.into_iter().map(|(_, bytes)| bytes).collect();
    let mut random = Random::new(seed);
    for _ in 0..rounds {
        let input = mutated(&inputs, &mut random);
        // What is printed last is what panicked.
        println!("{}", corpus::format(&input).replace('\n', " "));
        (target.run)(&input);
    }
}

#[test]
fn devices() {
    runs("devices", 400);
}

#[test]
fn elf() {
    runs("elf", 1500);
}

#[test]
fn hypercalls() {
    runs("hypercalls", 1500);
}

#[test]
fn inside() {
    runs("inside", 1500);
}

#[test]
fn rtas() {
    runs("rtas", 1500);
}

#[test]
fn text_and_bytes_are_the_same() {
    let bytes: Vec<u8> = (0..=255).collect();
    assert_eq!(corpus::parse(&corpus::format(&bytes)).unwrap(), bytes);
    assert_eq!(corpus::parse("# a comment\n7f 4 5 # E\n").unwrap(), [0x7f, 0x45]);
    assert!(corpus::parse("7").is_err() && corpus::parse("zz").is_err());
}
