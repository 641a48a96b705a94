//! Interfaces and hooks that come and go around a pod's containers.

use std::path::Path;
use std::sync::Arc;

use super::{Pod, PodError};
use crate::container::Container;
use crate::hooks::{self, Moment};
use crate::network::NetworkError;
use crate::network::namespace::Namespace;
use crate::network::resolver::{self, Resolver};
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

    /// Opens the way to Docker's resolver once resolv.conf names it. A container without names is better than none.
    pub(super) async fn open_resolver(&self) {
        let Some(resolv_conf) = &self.resolv_conf else { return };
        let mut resolver = self.resolver.lock().await;
        if resolver.is_some() || !resolver::is_named_in(resolv_conf) {
            return;
        }
        let opened = async {
            let namespace = Namespace::of_process(self.pid()).map_err(NetworkError::from)?;
            let opened = Resolver::open(&self.paths, namespace)?;
            self.or_machine_end(self.agent.open_resolver()).await?;
            Ok::<_, PodError>(opened)
        };
        match opened.await {
            Ok(opened) => *resolver = Some(opened),
            Err(error) => {
                log::warn!("names of other containers will not be found: {error}");
                let _ = std::fs::remove_file(self.paths.resolver_socket());
            }
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
                    self.open_resolver().await;
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
