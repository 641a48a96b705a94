//! Whether the host's kernel can give pods their network: tried out in a network namespace that is made for it and goes with it.

use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use paperboat_netlink::{Connection, NetlinkError};

use super::Finding;
use crate::network::{steer, sys};

const TAP: &str = "network";
const REDIRECT: &str = "network, redirection";
const LOCALHOST: &str = "network, port-forward";

/// Tries what a pod's start does.
pub fn findings() -> Vec<Finding> {
    if !nix::unistd::geteuid().is_root() {
        return vec![Finding::note(TAP, "only root can make a network namespace to try it out in", "run `sudo paperboat check`")];
    }
    // A thread of its own: this one stays in the host's namespace.
    std::thread::spawn(try_out).join().unwrap_or_default()
}

fn try_out() -> Vec<Finding> {
    if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET) {
        let cure = "pods need network namespaces: a kernel with CONFIG_NET_NS, and CAP_SYS_ADMIN";
        return vec![Finding::bad(TAP, format!("no network namespace can be made: {}", errno.desc()), cure)];
    }
    let mut findings = vec![tap()];
    if findings[0].verdict == super::Verdict::Good {
        findings.push(redirection(redirect()));
    }
    findings.push(port_forward(steered()));
    findings
}

/// Two taps: one plays the pod's interface.
fn tap() -> Finding {
    match ["paperboat0", "paperboat1"].into_iter().try_for_each(|name| sys::make_tap(name, false)) {
        Ok(()) => Finding::good(TAP, "taps can be made"),
        Err(error) => Finding::note(
            TAP,
            format!("{error}: pods have no network"),
            "`modprobe tun`, or as root `mkdir -p /dev/net && mknod /dev/net/tun c 10 200`",
        ),
    }
}

fn redirect() -> Result<(), NetlinkError> {
    let told = |source| NetlinkError::Refused { what: "rtnetlink".into(), source };
    let mut kernel = Connection::open().map_err(told)?;
    let links = kernel.links()?;
    let mut taps = links.iter().filter(|link| link.tun).map(|link| link.index);
    let (Some(first), Some(second)) = (taps.next(), taps.next()) else { return Err(told(Errno::ENODEV.into())) };
    kernel.add_ingress(first)?;
    kernel.redirect(first, second)
}

fn redirection(tried: Result<(), NetlinkError>) -> Finding {
    match tried {
        Ok(()) => Finding::good(REDIRECT, "ingress queue, u32 classifier and mirred action"),
        Err(error) => Finding::note(
            REDIRECT,
            format!("{error}: pods with interfaces do not start"),
            "`modprobe -a sch_ingress cls_u32 act_mirred`, or a kernel with CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_U32, CONFIG_NET_ACT_MIRRED",
        ),
    }
}

fn steered() -> Result<(), (&'static str, std::io::Error)> {
    let failed = |what| move |error| (what, error);
    let namespace = std::fs::File::open("/proc/thread-self/ns/net").map_err(failed("open the network namespace"))?;
    // 0.0.0.0: the loopback interface of this namespace is down.
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(failed("listen"))?;
    steer::localhost(namespace.as_fd(), listener.as_fd(), None).map(drop)
}

fn port_forward(tried: Result<(), (&'static str, std::io::Error)>) -> Finding {
    match tried {
        Ok(()) => Finding::good(LOCALHOST, "BPF socket lookup"),
        Err((what, error)) => Finding::note(
            LOCALHOST,
            format!("cannot {what}: {error}: `kubectl port-forward` does not reach pods; all else works"),
            "Linux 5.9 or later with CONFIG_BPF_SYSCALL and CONFIG_BPF_STREAM_PARSER",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Verdict;

    #[test]
    fn what_is_missing_is_named_with_its_cure() {
        let refused = NetlinkError::Refused { what: "redirect".into(), source: Errno::ENOENT.into() };
        let finding = redirection(Err(refused));
        assert_eq!(finding.verdict, Verdict::Note);
        assert!(finding.detail.contains("redirect") && finding.cure.is_some_and(|cure| cure.contains("cls_u32")));
        let finding = port_forward(Err(("make a socket map", Errno::EINVAL.into())));
        assert!(finding.verdict == Verdict::Note && finding.detail.contains("cannot make a socket map"), "{finding:?}");
        assert_eq!((redirection(Ok(())).verdict, port_forward(Ok(())).verdict), (Verdict::Good, Verdict::Good));
    }

    /// Leaves nothing: the namespace goes with the thread.
    #[test]
    fn it_is_tried_out_beside_the_hosts_network() {
        let mut kernel = Connection::open().unwrap();
        let before = kernel.links().unwrap().len();
        let findings = findings();
        assert!(!findings.is_empty());
        if nix::unistd::geteuid().is_root() {
            assert_eq!(findings.len(), 3, "{findings:?}");
        }
        assert_eq!(kernel.links().unwrap().len(), before);
    }
}
