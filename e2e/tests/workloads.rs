//! What people run in pods: databases that are killed, a version control system and a compiler, many small files, minutes of traffic.

#![forbid(unsafe_code)]

/// Part of `cargo xtask test --all`, which alone makes their image.
mod slow {
    use std::fs;
    use std::net::{SocketAddr, UdpSocket};
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::thread;
    use std::time::{Duration, Instant};

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use paperboat_e2e::host::{finish, image};
    use paperboat_e2e::net::{HOST_V4, Net};
    use paperboat_e2e::{Host, Output, expect};

    /// No step takes longer, even on a busy software CPU.
    const PATIENCE: Duration = Duration::from_secs(1200);

    const IMAGE: &str = "workbench";

    fn host() -> Host {
        let host = Host::start().unwrap_or_else(|error| panic!("{error}"));
        host.import(IMAGE, "linux/ppc64le").unwrap();
        host
    }

    fn volume(host: &Host, name: &str) -> PathBuf {
        let path = host.directory().join("volumes").join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn run(host: &Host, options: &[&str], id: &str, script: &str) -> Output {
        finish(host.run_command(options, &image(IMAGE), id, &["bash", "-ec", script]), PATIENCE).unwrap()
    }

    fn bind(source: &Path) -> String {
        format!("type=bind,src={},dst=/data,options=rbind:rw", source.display())
    }

    fn shell(script: &str) -> String {
        let output = Command::new("sh").args(["-ec", script]).output().unwrap();
        assert!(output.status.success(), "{script}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    #[track_caller]
    fn wait_for(what: &str, mut found: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !found() {
            assert!(Instant::now() < deadline, "waited in vain for {what}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// A client of redis and of sqlite: tells each number that both have acknowledged, and checks what is there at its start.
    const CLIENT: &str = r#"
import os, socket, sqlite3, sys, time
def connect():
    while True:
        try:
            return socket.create_connection(("127.0.0.1", 6379)).makefile("rwb", buffering=0)
        except OSError:
            time.sleep(0.1)
redis = connect()
def ask(*words):
    redis.write(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words))
    line = redis.readline()
    if line.startswith(b"$") and line != b"$-1\r\n":
        return redis.read(int(line[1:]) + 2)[:-2]
    return line.strip()
while ask(b"PING") != b"+PONG":
    time.sleep(0.1)
db = sqlite3.connect("/data/sqlite.db", isolation_level=None)
db.execute("pragma synchronous=full")
db.execute("create table if not exists t (n integer primary key, text)")
told = int(sys.argv[1])
assert db.execute("pragma integrity_check").fetchone() == ("ok",)
for n in range(1, told + 1):
    assert ask(b"GET", b"key:%d" % n) == b"value %d" % n, ("redis", n)
    assert db.execute("select text from t where n = ?", (n,)).fetchone() == ("value %d" % n,), ("sqlite", n)
print("all there", told, flush=True)
if len(sys.argv) > 2:
    raise SystemExit
n = told
while True:
    n += 1
    assert ask(b"SET", b"key:%d" % n, b"value %d" % n) == b"+OK"
    db.execute("insert or replace into t values (?, ?)", (n, "value %d" % n))
    print("acknowledged", n, flush=True)
    if n == told + 100:
        open("/data/enough", "w").close()
"#;

    #[test]
    fn databases_that_are_killed_keep_what_they_acknowledged() {
        let host = host();
        let data = volume(&host, "data");
        fs::write(data.join("client.py"), CLIENT).unwrap();
        let before = host.leftovers();
        let mount = bind(&data);
        let serve =
            "redis-server --dir /data --appendonly yes --appendfsync always --save '' --port 6379 >/data/redis.log 2>&1 &";
        let mut told = 0;
        for (round, victim) in ["container", "machine"].into_iter().enumerate() {
            let id = format!("db{round}");
            let _ = fs::remove_file(data.join("enough"));
            let output = thread::scope(|scope| {
                let script = format!("{serve}\nexec python3 /data/client.py {told}");
                let (host, id, mount) = (&host, &id, &mount);
                let running = scope.spawn(move || run(host, &["--mount", mount], id, &script));
                wait_for("a hundred acknowledged writes", || data.join("enough").exists() || running.is_finished());
                if victim == "machine" {
                    kill(Pid::from_raw(host.wait_for_machine(id).unwrap()), Signal::SIGKILL).unwrap();
                } else {
                    host.ctr(&["task", "kill", "--signal", "KILL", id]).unwrap();
                }
                running.join().unwrap()
            });
            expect::code(&host, &output, 137);
            expect::words(&host, &output.stdout, &[&format!("all there {told}\n")]);
            let last =
                output.stdout.lines().filter_map(|line| line.strip_prefix("acknowledged ")?.parse::<u32>().ok()).next_back();
            told = last.unwrap_or_else(|| panic!("{output:?}"));
            assert!(told >= 100 * (round as u32 + 1), "{told}");
        }
        let script =
            format!("{serve}\npython3 /data/client.py {told} check; sqlite3 /data/sqlite.db 'select count(*) >= {told} from t'");
        let output = run(&host, &["--mount", &mount], "check", &script);
        expect::code(&host, &output, 0);
        assert_eq!(output.stdout, format!("all there {told}\n1\n"));
        expect::nothing_left(&host, &before);
    }

    #[test]
    fn git_clones_and_a_compiler_builds_on_a_volume() {
        let host = host();
        let data = volume(&host, "source");
        let before = host.leftovers();
        let script = r#"
export HOME=/tmp GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
cd /data; git init -q --initial-branch main origin; cd origin
for n in $(seq 8); do echo "int part$n(int x) { int s = 0; for (int i = 0; i < x; i++) s += i * $n; return s; }" > part$n.c; done
echo '#include <stdio.h>
int part1(int), part8(int);
int main(void) { printf("%d\n", part1(1000) + part8(1000)); return 0; }' > main.c
printf 'CC = gcc\nCFLAGS = -O1\nprogram: main.o part1.o part2.o part3.o part4.o part5.o part6.o part7.o part8.o\n\t$(CC) -o $@ $^\n' > Makefile
printf '*.o\nprogram\n' > .gitignore
git add .; git commit -q -m first
for n in $(seq 5); do echo $n > notes; git add notes; git commit -q -m "note $n"; done
cd ..; git clone -q origin near; git clone -q file:///data/origin far; git -C far fsck --strict
test "$(git -C far log --format=%H)" = "$(git -C origin log --format=%H)"
cd far; make -j2 > make.log; ./program; echo changed >> notes; rm make.log
git status --porcelain; git commit -q -a -m later; git push -q origin HEAD:later; git -C ../origin log -1 --format=%s later
"#;
        let output = run(&host, &["--mount", &bind(&data)], "builder", script);
        expect::code(&host, &output, 0);
        assert_eq!(output.stdout, format!("{}\n M notes\nlater\n", 9 * 1000 * 999 / 2), "{}", output.stderr);
        let program = fs::read(data.join("far/program")).unwrap();
        // ELF, 64 bits, little-endian, for PowerPC (ELF specification, e_ident and e_machine).
        assert!(program.starts_with(b"\x7fELF\x02\x01") && program[18..20] == [21, 0]);
        expect::nothing_left(&host, &before);
    }

    /// Names and contents of a tree, as host and guest compute it.
    const SUM: &str = "find . -type f | LC_ALL=C sort > /tmp/list; sha256sum < /tmp/list; xargs cat < /tmp/list | sha256sum";

    /// Each file that a guest remembers is a descriptor of its machine, and this test has more files than that may have of them: as few as
    /// some hosts allow.
    const DESCRIPTORS: u32 = 20_000;

    #[test]
    fn twenty_thousand_files_are_the_same_on_both_sides() {
        let host = host();
        let data = volume(&host, "many");
        for number in 0..20_000_u32 {
            let directory = data.join("host").join((number % 100).to_string());
            if number < 100 {
                fs::create_dir_all(&directory).unwrap();
            }
            fs::write(directory.join(number.to_string()), format!("{number} ").repeat((number % 997) as usize)).unwrap();
        }
        shell(&format!("prlimit --pid {} --nofile={DESCRIPTORS}:{DESCRIPTORS}", host.containerd_pid()));
        let before = host.leftovers();
        let script = format!(
            "cd /data/host; {SUM}; mkdir /data/guest; cd /data/guest
             python3 -c 'import os
for n in range(20000):
    d = str(n % 100); os.makedirs(d, exist_ok=True)
    with open(d + \"/\" + str(n), \"w\") as f: f.write(str(n * n) * (n % 499))'
             {SUM}"
        );
        let output = run(&host, &["--mount", &bind(&data)], "many", &script);
        expect::code(&host, &output, 0);
        let list = data.join("list").display().to_string();
        let there = |name: &str| shell(&format!("cd {}/{name}; {}", data.display(), SUM.replace("/tmp/list", &list)));
        assert_eq!(output.stdout, there("host") + &there("guest"));
        assert_eq!(shell(&format!("find {}/guest -type f | wc -l", data.display())).trim(), "20000");
        expect::nothing_left(&host, &before);
    }

    /// Answers each datagram with itself.
    const ECHO: &str = "python3 -c 'import socket
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.bind((\"::\", 9000))
while True:
    data, peer = s.recvfrom(65536); s.sendto(data, peer)'";

    /// Sends datagrams of many sizes, the largest in dozens of fragments, and expects each back.
    const CALL: &str = "python3 -c 'import socket, sys
for size in (1, 1000, 1372, 1373, 8000, 60000):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(60)
    s.sendto(bytes(size), (\"10.88.0.1\", 9000)); assert s.recv(65536) == bytes(size), size
print(\"echoed\")'";

    fn echo_once(from: &UdpSocket, to: SocketAddr) {
        for size in [1, 1000, 1372, 1373, 8000, 60_000] {
            let sent = vec![7; size];
            from.send_to(&sent, to).unwrap();
            let mut got = vec![0; 65536];
            let length = from.recv(&mut got).unwrap();
            assert_eq!(got[..length], sent, "{to} {size}");
        }
    }

    #[test]
    fn minutes_of_traffic_between_pods_and_the_host() {
        let host = host();
        let mut net = Net::new().unwrap();
        let (server, client) = (net.pod(2).unwrap(), net.pod(3).unwrap());
        let namespace = |path: &Path| format!("network:{}", path.display());
        let before = host.leftovers();
        let echo = net.run(move || {
            let socket = UdpSocket::bind((HOST_V4, 9000)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut buffer = vec![0; 65536];
            for _ in 0..6 {
                let (length, peer) = socket.recv_from(&mut buffer).unwrap();
                socket.send_to(&buffer[..length], peer).unwrap();
            }
        });
        thread::scope(|scope| {
            let (host, in_server) = (&host, namespace(&server));
            let serving = scope.spawn(move || {
                run(host, &["--with-ns", &in_server], "server", &format!("{ECHO} & {CALL}; iperf3 -s >/dev/null & wait -n"))
            });
            host.wait_for_log(&["container started id=server"]).unwrap();
            // Long ones first; each direction of each protocol; fragments; IPv6.
            let script = "until iperf3 -c 10.88.0.2 -t 1 >/dev/null 2>&1; do sleep 1; done
                report() { echo $1; shift; iperf3 \"$@\" > /tmp/log || { cat /tmp/log; exit 1; }; grep -E 'sender|receiver' /tmp/log; }
                report minute -c 10.88.0.2 -t 60 --bidir; report six -c fd88::2 -t 5; report back -c 10.88.0.2 -t 5 -R
                report datagrams -c 10.88.0.2 -u -b 2M -t 5; report datagrams-back -c 10.88.0.2 -u -b 2M -t 5 -R
                report fragments -c 10.88.0.2 -u -b 2M -l 8000 -t 5; echo done";
            let output = run(host, &["--with-ns", &namespace(&client)], "client", script);
            expect::code(host, &output, 0);
            println!("{}", output.stdout);
            expect::words(host, &output.stdout, &["minute", "six", "back", "datagrams-back", "fragments", "done"]);
            let received: Vec<&str> = output.stdout.lines().filter(|line| line.contains("receiver")).collect();
            assert_eq!(received.len(), 7, "{}", output.stdout);
            assert!(received.iter().all(|line| !line.contains(" 0.00 Bytes ")), "{}", output.stdout);
            for address in ["10.88.0.2:9000", "[fd88::2]:9000"] {
                let to: SocketAddr = address.parse().unwrap();
                let called = net.run(move || {
                    let from = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
                    from.set_read_timeout(Some(PATIENCE)).unwrap();
                    echo_once(&from, to);
                });
                called.unwrap().join().unwrap();
            }
            host.ctr(&["task", "kill", "--signal", "KILL", "server"]).unwrap();
            let output = serving.join().unwrap();
            expect::words(host, &output.stdout, &["echoed"]);
        });
        echo.unwrap().join().unwrap();
        expect::nothing_left(&host, &before);
    }
}
