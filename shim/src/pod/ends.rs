//! How processes, containers and the machine end, and who is told.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use containerd_shim_protos::events::task as event;
use protobuf::MessageField;

use super::{EXEC_END_GRACE, KILLED, Pod, PodError};
use crate::agent::AgentError;
use crate::container::{Container, Exit, Phase, Process};
use crate::events::Event;
use crate::logging::of_container;
use crate::machine::MachineError;
use crate::spec::Role;

/// The guest gets this long to sync its file systems and power off. containerd waits three seconds for Shutdown.
const POWER_OFF_GRACE: Duration = Duration::from_secs(2);

/// A container that runs out of memory all the time makes an event in this time, not a flood.
const OOM_PAUSE: Duration = Duration::from_millis(100);

impl Pod {
    /// Lets the guest power off, then makes sure.
    pub async fn end_machine(&self) {
        self.machine.expect_end();
        if !self.machine.has_ended() {
            self.agent.shutdown(POWER_OFF_GRACE).await;
            if tokio::time::timeout(POWER_OFF_GRACE, self.machine.ended()).await.is_err() {
                self.machine.stop().await;
            }
        }
        self.network.close().await;
    }

    /// Waits for a process's end and tells everybody.
    pub(super) fn watch_process(self: Arc<Self>, container: Arc<Container>, process: Arc<Process>) {
        tokio::spawn(of_container(&container.id.clone(), async move {
            let (exit, oom_kills, last_words) = self.end_of(&process).await;
            log::info!(
                "container ended id={} exec={} status={} {}",
                process.container,
                process.exec_id,
                exit.status,
                self.machine.counters().await
            );
            if process.exec_id.is_empty() {
                let others = async {
                    for exec in container.execs() {
                        exec.ended().await;
                    }
                };
                let _ = tokio::time::timeout(EXEC_END_GRACE, others).await;
            }
            self.tell_oom(&container, oom_kills);
            self.settle(&process, exit, last_words).await;
        }));
    }

    /// Tells containerd of processes that the guest's kernel ends for want of memory, until the container is gone.
    pub(super) fn watch_oom(self: Arc<Self>, container: Arc<Container>) {
        tokio::spawn(of_container(&container.id.clone(), async move {
            let mut seen = 0;
            while let Ok(kills) = self.or_machine_end(self.agent.wait_oom(&container.id, seen)).await {
                // A guest that answers what was not asked for would have us spin.
                if kills <= seen {
                    return;
                }
                seen = kills;
                self.tell_oom(&container, kills);
                tokio::time::sleep(OOM_PAUSE).await;
            }
        }));
    }

    /// Tells of each want of memory once, whoever hears of it first.
    fn tell_oom(&self, container: &Container, kills: u64) {
        if container.oom_told.fetch_max(kills, Ordering::Relaxed) < kills {
            log::warn!("the guest's kernel has ended {kills} processes of the container for want of memory");
            self.publisher.publish(Event::Oom(event::TaskOOM { container_id: container.id.clone(), ..Default::default() }));
        }
    }

    /// How the process ended, how often memory had been wanting by then, and what to tell its readers when it was not by itself.
    async fn end_of(&self, process: &Process) -> (Exit, u64, Option<String>) {
        match self.or_machine_end(self.agent.wait(&process.container, &process.exec_id)).await {
            Ok(answer) => {
                let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(answer.exited_at_unix_ns));
                // A guest's clock may say anything; its exit status is a byte.
                let at = at.filter(|at| *at <= SystemTime::now() && answer.exited_at_unix_ns > 0).unwrap_or_else(SystemTime::now);
                (Exit { status: answer.exit_status & 0xff, at }, answer.oom_kills, None)
            }
            Err(error) => {
                let killed = Exit { status: KILLED, at: SystemTime::now() };
                if matches!(error, PodError::Agent(AgentError::NotFound(_))) {
                    return (killed, 0, None);
                }
                let expected = matches!(&error, PodError::Machine(MachineError::Ended(end)) if end.expected);
                if !self.machine.has_ended() {
                    log::error!("the guest's agent failed, ending the machine: {error}");
                    self.machine.kill().await;
                }
                let newline = if process.stdio.terminal { "\r\n" } else { "\n" };
                let words = format!("paperboat: pod {}: {error}\n", self.id).replace('\n', newline);
                (killed, 0, (!expected).then_some(words))
            }
        }
    }

    /// Makes the end of a process known: first to its streams, then to waiters and containerd, after the news of its start.
    pub(super) async fn settle(&self, process: &Process, exit: Exit, last_words: Option<String>) {
        if let Some(streams) = process.streams.lock().await.as_ref() {
            streams.process_ended(last_words);
        }
        let _start_is_out = process.starting.lock().await;
        // An added process that could not be started has no end to tell: nobody has heard of its start.
        let told = process.exec_id.is_empty() || process.phase() != Phase::Created;
        if process.enter(Phase::Stopped(exit)) && told {
            let id = if process.exec_id.is_empty() { &process.container } else { &process.exec_id };
            self.publish(
                &process.container,
                Event::Exit(event::TaskExit {
                    container_id: process.container.clone(),
                    id: id.clone(),
                    pid: self.pid(),
                    exit_status: exit.status,
                    exited_at: MessageField::some(exit.at.into()),
                    ..Default::default()
                }),
            );
        }
    }

    /// A sandbox ends with its machine.
    pub(super) fn watch_machine(self: Arc<Self>) {
        tokio::spawn(async move {
            self.machine.ended().await;
            let sandboxes: Vec<_> = self.lock().values().filter(|container| container.role == Role::Sandbox).cloned().collect();
            for sandbox in sandboxes {
                self.settle(&sandbox.init, Exit { status: KILLED, at: SystemTime::now() }, None).await;
            }
        });
    }
}
