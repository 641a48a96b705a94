//! Interfaces and hooks that come and go around a pod's containers.

use std::path::Path;
use std::sync::Arc;

use super::{Pod, PodError};
use crate::container::Container;
use crate::hooks::{self, Moment};
use crate::spec::Spec;

impl Pod {
    /// Hooks whose failure changes nothing: it is logged, as the runtime specification has it.
    pub(super) async fn run_late_hooks(&self, container: &Container, moment: Moment) {
        let bundle = Path::new(&container.bundle);
        let run = async {
            let spec = Spec::load(bundle)?;
            Ok::<(), PodError>(hooks::run(&spec, moment, &container.id, self.pid(), bundle).await?)
        };
        if let Err(error) = run.await {
            log::warn!("{error}");
        }
    }

    /// Interfaces that come to the pod's namespace and go from it are followed as long as the machine lives.
    pub(super) fn watch_network(self: Arc<Self>) {
        tokio::spawn(async move {
            let follow = async {
                while let Ok(()) = self.network.changed().await {
                    if let Err(error) = self.network.refresh(&self.machine, &self.agent).await
                        && !self.machine.has_ended()
                    {
                        log::warn!("{error}");
                    }
                }
            };
            tokio::select! {
                () = follow => log::warn!("changes of the pod's network are not followed any more"),
                _ = self.machine.ended() => {}
            }
            self.network.close().await;
        });
    }
}
