//! Streams over vsock of every kind.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use crate::guest::{Guest, counter, sha256};

/// Streams to a guest that reads nothing stop, and go on when it reads; the other way round too.
#[test]
fn streams_wait_for_readers_and_end_as_they_should() {
    let mut guest = Guest::own("", &[]);
    guest.run("mount -t virtiofs paperboat /mnt");
    // To the guest: nobody reads until its standard input ends.
    guest.run("mkfifo /tmp/go; (/mnt/bin/talk hold 2000 < /tmp/go > /tmp/held) & exec 9> /tmp/go");
    let stream = guest.connect(2000);
    stream.set_nonblocking(true).unwrap();
    let (chunk, mut written, mut idle) = (vec![7; 64 << 10], 0u64, 0);
    while idle < 20 {
        match (&stream).write(&chunk) {
            Ok(count) => (written, idle) = (written + count as u64, 0),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                idle += 1;
                thread::sleep(Duration::from_millis(50));
            }
            Err(error) => panic!("{error}"),
        }
        assert!(written < 8 << 20, "nobody reads, and {written} bytes are taken");
    }
    stream.set_nonblocking(false).unwrap();
    guest.run("exec 9>&-");
    let mut rest = stream.try_clone().unwrap();
    let more = thread::spawn(move || {
        rest.write_all(&vec![8; 4 << 20]).unwrap();
        rest.shutdown(Shutdown::Write).unwrap();
    });
    more.join().unwrap();
    let total = written + (4 << 20);
    guest.run(&format!("until grep -q '^{total} bytes' /tmp/held; do sleep 0.1; done"));

    // From the guest: the host accepts and waits.
    let listener = guest.listener(2001);
    guest.run("(/mnt/bin/talk generate 3 16000000 | /mnt/bin/talk connect 2001; echo ended > /tmp/sent) &");
    let (mut stream, _) = listener.accept().unwrap();
    guest.run("sleep 1; [ ! -e /tmp/sent ]");
    let mut got = Vec::new();
    stream.shutdown(Shutdown::Write).unwrap();
    stream.read_to_end(&mut got).unwrap();
    assert_eq!(got.len(), 16_000_000);
    assert_eq!(guest.run("/mnt/bin/talk generate 3 16000000 | sha256sum | cut -c1-64"), sha256(&got));

    // A far end that goes away while the guest sends.
    let listener = guest.listener(2002);
    guest.run("(/mnt/bin/talk generate 3 16000000 | /mnt/bin/talk connect 2002 2> /tmp/why; echo ended > /tmp/reset) &");
    drop(listener.accept().unwrap());
    guest.run("until [ -e /tmp/reset ]; do sleep 0.1; done");
    // Nobody there.
    let (_, status) = guest.machine.command("/mnt/bin/talk connect 2999 < /dev/null");
    assert_eq!(status, 1);

    many(&mut guest, 200);
    let ended = guest.power_off();
    assert_eq!(counter(&ended, "vsock.connections_open"), 0, "{}", ended.messages);
    assert!(
        counter(&ended, "vsock.connections_opened") > 400 && counter(&ended, "vsock.connections_refused") > 0,
        "{}",
        ended.messages
    );
}

/// Streams open at once, `count` each way.
pub fn many(guest: &mut Guest, count: usize) {
    let listener = guest.listener(2100);
    let echo = thread::spawn(move || {
        let mut streams = Vec::new();
        for _ in 0..count {
            let (mut stream, _) = listener.accept().unwrap();
            let mut word = [0; 8];
            stream.read_exact(&mut word).unwrap();
            stream.write_all(&word).unwrap();
            streams.push(stream);
        }
        streams.len()
    });
    assert_eq!(guest.run(&format!("/mnt/bin/talk many 2100 {count}")), format!("{count} of {count}"));
    assert_eq!(echo.join().unwrap(), count);
    std::fs::remove_file(guest.directory.path().join("vsock_2100")).unwrap();

    guest.run("/mnt/bin/talk echo 2101 > /tmp/echo & until grep -q listening /tmp/echo; do sleep 0.1; done");
    let mut streams: Vec<UnixStream> = (0..count).map(|_| guest.connect(2101)).collect();
    for (index, stream) in streams.iter_mut().enumerate() {
        stream.write_all(&index.to_le_bytes()).unwrap();
    }
    for (index, stream) in streams.iter_mut().enumerate() {
        let mut word = [0; size_of::<usize>()];
        stream.read_exact(&mut word).unwrap();
        assert_eq!(usize::from_le_bytes(word), index);
    }
    drop(streams);
    guest.run("killall talk");
}
