use super::*;
use crate::papr::testkit::platform;
use crate::papr::xics;
use crate::testing::Random;

const BUFFER: u64 = 0x8000;
const HIGH: u32 = (phb::BUID >> 32) as u32;
const LOW: u32 = phb::BUID as u32;

fn token(name: &str) -> u32 {
    CALLS.iter().find(|row| row.name == name).unwrap().token
}

fn raw(platform: &Platform, cpu: u32, words: &[u32]) -> Outcome {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    platform.ram.memory().write_slice(&bytes, GuestAddress(BUFFER)).unwrap();
    platform.hypercall(cpu, 0xf000, &[BUFFER, 0, 0, 0, 0, 0, 0, 0, 0])
}

fn word(platform: &Platform, index: u64) -> u32 {
    u32::from_be(platform.ram.memory().read_obj(GuestAddress(BUFFER + index * 4)).unwrap())
}

/// Calls `name` and returns status and further returns.
fn call(platform: &Platform, name: &str, args: &[u32], nrets: u32) -> (i32, Vec<u32>, Action) {
    let mut words = vec![token(name), args.len() as u32, nrets];
    words.extend(args);
    words.extend(vec![0x5555_5555; nrets as usize]);
    let outcome = raw(platform, 0, &words);
    assert_eq!(outcome.reply.status, H_SUCCESS);
    let first = 3 + args.len() as u64;
    let rets: Vec<u32> = (1..u64::from(nrets)).map(|index| word(platform, first + index)).collect();
    (word(platform, first) as i32, rets, outcome.action)
}

#[test]
fn names_and_tokens_are_unique_and_the_shapes_fit_the_buffer() {
    for (index, row) in CALLS.iter().enumerate() {
        assert!(CALLS[..index].iter().all(|other| other.token != row.token && other.name != row.name), "{}", row.name);
        assert!(row.nargs as usize <= WORDS_MAX && row.nrets.1 as usize <= WORDS_MAX && row.nrets.0 >= 1);
        assert!(row.nrets.0 <= row.nrets.1 && !row.section.is_empty());
    }
}

#[test]
fn the_machine_ends_when_asked() {
    let (platform, _) = platform(1);
    assert_eq!(call(&platform, "power-off", &[0, 0], 1).2, Action::End(GuestEnd::PowerOff));
    assert_eq!(call(&platform, "system-reboot", &[], 1).2, Action::End(GuestEnd::Reboot));
    platform.ram.memory().write_slice(b"OS panic: no\x1b[2Jinit\n\0tail", GuestAddress(0x100)).unwrap();
    let panic = call(&platform, "ibm,os-term", &[0x100], 1).2;
    assert_eq!(panic, Action::End(GuestEnd::Panic("OS panic: no [2Jinit".into())));
    let nowhere = call(&platform, "ibm,os-term", &[u32::MAX], 1).2;
    assert_eq!(nowhere, Action::End(GuestEnd::Panic(String::new())));
}

#[test]
fn cpus_start_once_and_report_their_state() {
    let (platform, _) = platform(3);
    assert_eq!(call(&platform, "query-cpu-stopped-state", &[1], 2).1, [0]);
    assert_eq!(call(&platform, "start-cpu", &[1, 0x4000, 0x77], 1).0, SUCCESS);
    assert_eq!(call(&platform, "query-cpu-stopped-state", &[1], 2).1, [2]);
    assert_eq!(call(&platform, "start-cpu", &[1, 0x4000, 0x77], 1).0, HARDWARE_ERROR);
    assert_eq!(call(&platform, "start-cpu", &[3, 0x4000, 0x77], 1).0, PARAMETER_ERROR);
    assert_eq!(call(&platform, "query-cpu-stopped-state", &[3], 2).0, PARAMETER_ERROR);
    let entry = platform.cpus.wait_for_start(1).unwrap();
    assert_eq!((entry.pc, entry.r3, entry.msr), (0x4000, 0x77, MSR_SF | MSR_ME));
    let outcome = raw(&platform, 1, &[token("stop-self"), 0, 1, 9]);
    assert_eq!(outcome.action, Action::StopSelf);
    assert_eq!(call(&platform, "query-cpu-stopped-state", &[1], 2).1, [1]);
}

#[test]
fn wrong_shapes_and_places_are_refused() {
    let (platform, _) = platform(1);
    // Counts that do not fit the call: RTAS says so.
    assert_eq!(call(&platform, "power-off", &[0], 1), (PARAMETER_ERROR, vec![], Action::None));
    assert_eq!(call(&platform, "power-off", &[0, 0], 2).0, PARAMETER_ERROR);
    // No return word at all: the call must not act.
    assert_eq!(raw(&platform, 0, &[token("power-off"), 2, 0, 0, 0]).action, Action::None);
    // Counts beyond any call: the same, where the status word is in memory.
    let long = raw(&platform, 0, &[token("power-off"), 17, 1]);
    assert_eq!((long.reply.status, long.action, word(&platform, 3 + 17) as i32), (H_SUCCESS, Action::None, PARAMETER_ERROR));
    assert_eq!(raw(&platform, 0, &[token("power-off"), 0, u32::MAX]).reply.status, H_SUCCESS);
    assert_eq!(word(&platform, 3) as i32, PARAMETER_ERROR);
    // No word to say it in, and buffers outside memory: the hypercall says so.
    assert_eq!(raw(&platform, 0, &[token("power-off"), 17, 0]).reply.status, H_PARAMETER);
    assert_eq!(raw(&platform, 0, &[token("power-off"), u32::MAX, 1]).reply.status, H_PARAMETER);
    let end = platform.ram.size_bytes();
    let words: Vec<u8> = [token("power-off"), 2, 1].iter().flat_map(|word: &u32| word.to_be_bytes()).collect();
    platform.ram.memory().write_slice(&words, GuestAddress(end - 20)).unwrap();
    for address in [end - 20, end, end - 4, u64::MAX, 1 << 32] {
        let outcome = platform.hypercall(0, 0xf000, &[address, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!((outcome.reply.status, outcome.action), (H_PARAMETER, Action::None), "{address:#x}");
    }
}

#[test]
fn unknown_tokens_get_minus_three_and_are_counted() {
    let (platform, _) = platform(1);
    raw(&platform, 0, &[0x1234, 0, 1, 7]);
    assert_eq!(word(&platform, 3) as i32, -3);
    assert!(platform.counters(0).unwrap().by_name().contains(&("unknown", 1)));
}

#[test]
fn sources_are_routed_and_masked() {
    let (platform, _) = platform(1);
    let source = xics::MSI_BASE;
    assert_eq!(call(&platform, "ibm,set-xive", &[source, 0, 5], 1).0, SUCCESS);
    assert_eq!(call(&platform, "ibm,get-xive", &[source], 3), (SUCCESS, vec![0, 5], Action::None));
    assert_eq!(call(&platform, "ibm,int-off", &[source], 1).0, SUCCESS);
    assert_eq!(call(&platform, "ibm,get-xive", &[source], 3).1, [0, 0xff]);
    assert_eq!(call(&platform, "ibm,int-on", &[source], 1).0, SUCCESS);
    assert_eq!(call(&platform, "ibm,get-xive", &[source], 3).1, [0, 5]);
    for bad in [[2, 0, 5], [source, 1, 5], [source, 0, 256], [u32::MAX, 0, 0]] {
        assert_eq!(call(&platform, "ibm,set-xive", &bad, 1).0, PARAMETER_ERROR, "{bad:?}");
    }
}

#[test]
fn pci_is_reached_through_its_bridge_only() {
    let (platform, _) = platform(1);
    assert_eq!(call(&platform, "ibm,read-pci-config", &[0x800, HIGH, LOW, 4], 2), (SUCCESS, vec![0x1042_1af4], Action::None));
    assert_eq!(
        call(&platform, "ibm,read-pci-config", &[0x800, HIGH, LOW + 1, 4], 2),
        (PARAMETER_ERROR, vec![u32::MAX], Action::None)
    );
    assert_eq!(call(&platform, "read-pci-config", &[0x800, 2], 2).1, [0x1af4]);
    assert_eq!(call(&platform, "read-pci-config", &[0xf800, 2], 2), (SUCCESS, vec![0xffff], Action::None));
    assert_eq!(call(&platform, "read-pci-config", &[0x800, 3], 2).0, PARAMETER_ERROR);
    assert_eq!(call(&platform, "ibm,write-pci-config", &[0x804, HIGH, LOW, 2, 6], 1).0, SUCCESS);
}

#[test]
fn vectors_are_bound_as_linux_asks() {
    let (platform, _) = platform(1);
    let (status, rets, _) = call(&platform, "ibm,change-msi", &[0x800, HIGH, LOW, 4, 2, 1], 4);
    assert_eq!((status, rets), (SUCCESS, vec![2, 2, 2]));
    let (status, rets, _) = call(&platform, "ibm,query-interrupt-source-number", &[0x800, HIGH, LOW, 1], 3);
    assert_eq!((status, rets), (SUCCESS, vec![xics::MSI_BASE + 1, 1]));
    assert_eq!(call(&platform, "ibm,query-interrupt-source-number", &[0x800, HIGH, LOW, 2], 3).0, PARAMETER_ERROR);
    assert_eq!(call(&platform, "ibm,change-msi", &[0x800, HIGH, LOW, 3, 1, 1], 4).0, PARAMETER_ERROR, "no plain MSI");
    let (status, rets, _) = call(&platform, "ibm,change-msi", &[0x800, HIGH, LOW, 1, 0, 1], 3);
    assert_eq!((status, rets[0]), (SUCCESS, 0));
    assert_eq!(call(&platform, "ibm,query-interrupt-source-number", &[0x800, HIGH, LOW, 0], 3).0, PARAMETER_ERROR);
}

#[test]
fn time_and_nvram_keep_what_was_stored() {
    let (platform, _) = platform(1);
    assert_eq!(call(&platform, "get-time-of-day", &[], 8).1, [2026, 1, 1, 0, 0, 0, 0]);
    assert_eq!(call(&platform, "set-time-of-day", &[2030, 5, 6, 7, 8, 9, 10], 1).0, SUCCESS);
    assert_eq!(call(&platform, "get-time-of-day", &[], 8).1, [2030, 5, 6, 7, 8, 9, 10]);
    assert_eq!(call(&platform, "set-time-of-day", &[2030, 13, 6, 7, 8, 9, 10], 1).0, PARAMETER_ERROR);
    platform.ram.memory().write_slice(b"nonvolatile", GuestAddress(0x100)).unwrap();
    assert_eq!(call(&platform, "nvram-fetch", &[0, 0x300, 4], 2), (SUCCESS, vec![4], Action::None));
    assert_eq!(call(&platform, "nvram-store", &[0x3ff0, 0x100, 11], 2), (SUCCESS, vec![11], Action::None));
    assert_eq!(call(&platform, "nvram-fetch", &[0x3ff0, 0x200, 11], 2).0, SUCCESS);
    let mut bytes = [0; 11];
    platform.ram.memory().read_slice(&mut bytes, GuestAddress(0x200)).unwrap();
    assert_eq!(&bytes, b"nonvolatile");
    for bad in [[0x3ff0, 0x100, 17], [u32::MAX, 0x100, u32::MAX], [0, u32::MAX, 16]] {
        assert_eq!(call(&platform, "nvram-store", &bad, 2).0, PARAMETER_ERROR);
        assert_eq!(call(&platform, "nvram-fetch", &bad, 2).0, PARAMETER_ERROR);
    }
}

#[test]
fn parameters_are_cut_to_the_buffer() {
    let (platform, _) = platform(2);
    assert_eq!(call(&platform, "ibm,get-system-parameter", &[20, 0x400, 6], 1).0, SUCCESS);
    let mut bytes = [0; 8];
    platform.ram.memory().read_slice(&mut bytes, GuestAddress(0x400)).unwrap();
    assert_eq!(&bytes[2..], b"MaxE\0\0");
    assert_eq!(call(&platform, "ibm,get-system-parameter", &[21, 0x400, 6], 1).0, NO_SUCH_PARAMETER);
    assert_eq!(call(&platform, "ibm,set-system-parameter", &[21, 0x400], 1).0, NO_SUCH_PARAMETER);
    assert_eq!(call(&platform, "ibm,get-system-parameter", &[20, 0xfff_ffff, 6], 1).0, PARAMETER_BUFFER_ERROR);
    assert_eq!(call(&platform, "ibm,get-system-parameter", &[20, 0x400, 1], 1).0, PARAMETER_BUFFER_ERROR);
    assert_eq!(call(&platform, "ibm,set-system-parameter", &[20, 0x400], 1).0, NOT_AUTHORIZED);
}

#[test]
fn what_this_machine_cannot_do_is_refused() {
    let (platform, console) = platform(1);
    assert_eq!(call(&platform, "ibm,suspend-me", &[], 1).0, SUSPEND_ABORTED);
    assert_eq!(call(&platform, "event-scan", &[0, 0, 0, 0], 1).0, NO_EVENT);
    assert_eq!(call(&platform, "check-exception", &[0, 0, 0, 0, 0, 0], 1).0, NO_EVENT);
    call(&platform, "display-character", &[u32::from(b'!')], 1);
    assert_eq!(console.tail(0), b"!");
}

/// Every call with awkward words in every place.
#[test]
fn random_calls_get_answers() {
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let (platform, _) = platform(2);
        for _ in 0..1000 {
            let row = &CALLS[random.below(CALLS.len() as u64) as usize];
            let exact = random.below(4) != 0;
            let nargs = if exact { row.nargs } else { random.below(20) as u32 };
            let nrets = if exact { row.nrets.1 } else { random.below(20) as u32 };
            let mut words = vec![row.token, nargs, nrets];
            words.extend((0..20).map(|_| random.awkward() as u32));
            if random.below(2) == 0 {
                (words[4], words[5]) = (HIGH, LOW);
            }
            let outcome = raw(&platform, random.below(2) as u32, &words);
            let fits = nargs as usize <= WORDS_MAX && nrets as usize <= WORDS_MAX;
            let answered = outcome.reply.status == H_SUCCESS;
            assert_eq!(answered, fits || nrets > 0, "seed {seed} {}", row.name);
        }
    }
}
