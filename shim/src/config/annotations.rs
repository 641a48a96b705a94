//! `io.paperboat.NAME` annotations: what a pod may set for itself, as far as the operator allows it.

use serde::de::value::Error as ValueError;
use serde::de::{Deserialize, IntoDeserializer};
use serde::{Deserialize as DeriveDeserialize, Serialize};

use super::{Config, ConfigError, Layer, Origin};

/// What the names of this runtime's annotations begin with.
const PREFIX: &str = "io.paperboat.";

/// Characters of a client's text that an error quotes.
const QUOTED: usize = 64;

/// A key that an annotation can set. Files of the host are never among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, DeriveDeserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnnotationKey {
    /// `vcpus`, up to `limits.max_vcpus`.
    Vcpus,
    /// `memory_mib`, up to `limits.max_memory_mib`.
    MemoryMib,
    /// `guest_log_level`.
    GuestLogLevel,
    /// `kernel_parameters`.
    KernelParameters,
    /// `backend`.
    Backend,
    /// `boot_timeout_s`.
    BootTimeoutS,
}

impl AnnotationKey {
    const ALL: [Self; 6] =
        [Self::Vcpus, Self::MemoryMib, Self::GuestLogLevel, Self::KernelParameters, Self::Backend, Self::BootTimeoutS];

    fn name(self) -> &'static str {
        match self {
            Self::Vcpus => "vcpus",
            Self::MemoryMib => "memory_mib",
            Self::GuestLogLevel => "guest_log_level",
            Self::KernelParameters => "kernel_parameters",
            Self::Backend => "backend",
            Self::BootTimeoutS => "boot_timeout_s",
        }
    }

    /// Parses `text` by the same rules as a file's value.
    fn set(self, layer: &mut Layer, text: &str) -> Result<(), ValueError> {
        match self {
            Self::Vcpus => layer.vcpus = Some(number(text)?),
            Self::MemoryMib => layer.memory_mib = Some(number(text)?),
            Self::BootTimeoutS => layer.boot_timeout_s = Some(number(text)?),
            Self::GuestLogLevel => layer.guest_log_level = Some(word(text)?),
            Self::KernelParameters => layer.kernel_parameters = Some(word(text)?),
            Self::Backend => layer.backend = Some(word(text)?),
        }
        Ok(())
    }
}

fn word<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, ValueError> {
    T::deserialize(text.into_deserializer())
}

/// A number, or the text itself for the message that says what was expected.
fn number<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, ValueError> {
    match text.trim().parse::<u64>() {
        Ok(value) => T::deserialize(value.into_deserializer()),
        Err(_) => word(text),
    }
}

impl Config {
    /// This configuration with the pod's annotations of this runtime applied.
    pub fn with_annotations<'a>(&self, annotations: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self, ConfigError> {
        let mut config = self.clone();
        for (name, text) in annotations {
            let Some(wanted) = name.strip_prefix(PREFIX) else { continue };
            let shown: String = name.chars().filter(|c| !c.is_control()).take(QUOTED).collect();
            let Some(key) = AnnotationKey::ALL.into_iter().find(|key| key.name() == wanted) else {
                let known = AnnotationKey::ALL.map(|key| format!("{PREFIX}{}", key.name())).join(", ");
                return Err(ConfigError::UnknownAnnotation { name: shown, known });
            };
            if !self.annotations.contains(&key) {
                let path = Self::path(None);
                return Err(ConfigError::DeniedAnnotation { name: shown, key: key.name(), path });
            }
            let mut layer = Layer::default();
            key.set(&mut layer, text).map_err(|error| ConfigError::AnnotationValue {
                name: shown.clone(),
                reason: error.to_string().chars().filter(|c| !c.is_control()).take(4 * QUOTED).collect(),
            })?;
            layer.apply(&mut config, &Origin::Annotation(shown));
        }
        config.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn annotated(text: &str, annotations: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("c.yaml")).unwrap().with_annotations(annotations.iter().copied())
    }

    #[test]
    fn allowed_annotations_set_what_they_name() {
        let config = annotated("", &[("io.paperboat.vcpus", "4"), ("io.paperboat.memory_mib", "1024"), ("other", "x")]).unwrap();
        assert_eq!((config.vcpus, config.memory_mib), (4, 1024));
        assert_eq!(config.origin("vcpus"), Origin::Annotation("io.paperboat.vcpus".into()));
        let all = "annotations: [kernel_parameters, guest_log_level, backend, boot_timeout_s]";
        let config = annotated(
            all,
            &[
                ("io.paperboat.kernel_parameters", "a: b # c"),
                ("io.paperboat.guest_log_level", "debug"),
                ("io.paperboat.backend", "soft"),
                ("io.paperboat.boot_timeout_s", "7"),
            ],
        )
        .unwrap();
        assert_eq!((config.kernel_parameters.as_str(), config.boot_timeout_s), ("a: b # c", 7));
    }

    #[test]
    fn everything_else_is_refused_by_name() {
        let refused = |text: &str, name: &str, value: &str| annotated(text, &[(name, value)]).unwrap_err().to_string();
        assert!(refused("", "io.paperboat.vcpus", "0").contains("1 to 64"));
        assert!(refused("", "io.paperboat.vcpus", "many").contains("many"));
        assert!(refused("", "io.paperboat.vcpus", "17").contains("limits.max_vcpus is 16"));
        assert!(refused("", "io.paperboat.kernel", "/etc/shadow").contains("unknown"));
        assert!(refused("", "io.paperboat.backend", "soft").contains("add backend to `annotations`"));
        assert!(refused("annotations: []", "io.paperboat.vcpus", "1").contains("not allowed"));
        assert!(refused("annotations: [backend]", "io.paperboat.backend", "qemu").contains("auto"));
        assert!(refused("annotations: [kernel_parameters]", "io.paperboat.kernel_parameters", "a\nb").contains("printable"));
    }
}
