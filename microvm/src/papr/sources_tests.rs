use std::os::fd::{AsRawFd, BorrowedFd};

use super::*;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Did {
    Rtas(String),
    Source(u32, SourceState),
    Line(u32, bool),
    Event(u32, bool),
}
use Did::{Event, Line, Rtas};

/// Remembers what it is told; refuses events when told to.
#[derive(Default)]
struct Controller {
    did: Mutex<Vec<Did>>,
    no_events: bool,
}

impl Controller {
    fn note(&self, did: Did) -> Result<(), BackendError> {
        self.did.lock().unwrap().push(did);
        Ok(())
    }

    fn take(&self) -> Vec<Did> {
        std::mem::take(&mut self.did.lock().unwrap())
    }
}

impl InterruptController for Controller {
    fn serve_rtas(&self, name: &str, token: u32) -> Result<(), BackendError> {
        assert!(token != 0);
        self.note(Rtas(name.to_owned()))
    }

    fn set_source(&self, number: u32, state: SourceState) -> Result<(), BackendError> {
        self.note(Did::Source(number, state))
    }

    fn set_line(&self, number: u32, asserted: bool) -> Result<(), BackendError> {
        self.note(Line(number, asserted))
    }

    fn bind_event(&self, number: u32, event: BorrowedFd<'_>, bound: bool) -> Result<(), BackendError> {
        assert!(event.as_raw_fd() >= 0);
        if self.no_events {
            return Err(BackendError::Os { call: "bind".into(), source: std::io::ErrorKind::OutOfMemory.into() });
        }
        self.note(Event(number, bound))
    }
}

const MSI: u32 = xics::MSI_BASE + 7;
const MASKED: SourceState = SourceState { server: 0, priority: 0xff, level: false, masked: true };

fn sources(no_events: bool) -> (BackendSources, Arc<Controller>) {
    let controller = Arc::new(Controller { no_events, ..Controller::default() });
    let sources = BackendSources::new(controller.clone(), 2).unwrap();
    assert_eq!(controller.take(), ["ibm,get-xive", "ibm,int-off", "ibm,int-on"].map(|name| Rtas(name.to_owned())));
    (sources, controller)
}

#[test]
fn a_source_is_made_once_and_its_edges_are_events() {
    let (sources, controller) = sources(false);
    let line = sources.line(MSI);
    assert_eq!(controller.take(), [Did::Source(MSI, MASKED), Event(MSI, true)]);
    line.trigger();
    assert_eq!(sources.shared.lock()[&MSI].event.as_ref().unwrap().read(), Ok(1));
    sources.line(MSI).trigger();
    assert_eq!(controller.take(), [], "it exists already");
    assert_eq!(sources.shared.lock()[&MSI].event.as_ref().unwrap().read(), Ok(1));
    sources.reset(MSI);
    assert_eq!(controller.take(), [Event(MSI, false), Did::Source(MSI, MASKED)]);
}

#[test]
fn a_change_of_a_source_in_use_loses_no_message() {
    let (sources, controller) = sources(false);
    sources.line(MSI);
    controller.take();
    let open = |server| SourceState { server, priority: 5, level: false, masked: false };
    sources.set_xive(MSI, 1, 5).unwrap();
    assert_eq!(controller.take(), [Did::Source(MSI, open(1))], "nothing can be pending yet");
    assert_eq!(sources.xive(MSI), Ok((1, 5)));
    sources.set_xive(MSI, 0, 5).unwrap();
    assert_eq!(controller.take(), [Did::Source(MSI, open(0)), Line(MSI, true)]);
    sources.set_xive(MSI, 0, 0xff).unwrap();
    assert_eq!(sources.xive(MSI), Ok((0, 0xff)));
}

#[test]
fn a_wire_keeps_its_level_across_a_change() {
    let (sources, controller) = sources(false);
    let number = xics::intx_source(3);
    let line = sources.line(number);
    assert_eq!(controller.take(), [Did::Source(number, SourceState { level: true, ..MASKED })]);
    line.set_level(false);
    line.set_level(true);
    line.set_level(true);
    assert_eq!(controller.take(), [Line(number, true)]);
    sources.set_xive(number, 1, 5).unwrap();
    assert_eq!(controller.take()[1..], [Line(number, true)]);
    line.set_level(false);
    sources.set_xive(number, 1, 5).unwrap();
    assert_eq!(controller.take().iter().filter(|did| matches!(did, Line(..))).collect::<Vec<_>>(), [&Line(number, false)]);
}

#[test]
fn what_was_never_made_is_unknown_and_reaches_nobody() {
    let (sources, controller) = sources(false);
    for number in [0, xics::IPI_SOURCE, xics::VTY_SOURCE, MSI, u32::MAX] {
        assert_eq!(sources.set_xive(number, 0, 5), Err(NoSuch));
        assert_eq!(sources.xive(number), Err(NoSuch));
        assert_eq!(sources.set_enabled(number, true), Err(NoSuch));
        sources.reset(number);
    }
    sources.line(MSI);
    controller.take();
    assert_eq!(sources.set_xive(MSI, 2, 5), Err(NoSuch), "no such server");
    assert_eq!(controller.take(), []);
}

#[test]
fn without_an_event_a_message_goes_by_a_call() {
    let (sources, controller) = sources(true);
    let line = sources.line(MSI);
    controller.take();
    line.trigger();
    assert_eq!(controller.take(), [Line(MSI, true)]);
}
