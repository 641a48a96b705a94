//! The part of `capng` that the virtiofsd library calls, on the pure Rust `caps` crate.
//!
//! The original wraps libcap-ng, a C library that every builder would need for both architectures; virtiofsd uses it to drop
//! CAP_FSETID around a write and to keep CAP_DAC_OVERRIDE over a change of user id. Both act on the calling thread's effective set.
//! As in libcap-ng, [`update`] and [`clear`] prepare a set and [`apply`] makes it the thread's; here the preparation
//! always starts from what the kernel says, so that no state can be stale after a change of user id.
#![forbid(unsafe_code)]

use std::cell::RefCell;

use caps::{CapSet, CapsHashSet};

/// Why a set could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No capability has this name.
    #[error("no capability is called {0}")]
    Name(String),
    /// No capability has this number.
    #[error("there is no capability number {0}")]
    Number(Capability),
    /// Only the effective set can be updated.
    #[error("only the effective set can be updated")]
    Type,
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] caps::errors::CapsError),
}

/// What every function here answers.
pub type Result<T> = std::result::Result<T, Error>;

/// A capability's number in linux/capability.h.
pub type Capability = u32;

/// One of a thread's capability sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Type(u32);

impl Type {
    /// The effective set.
    pub const EFFECTIVE: Self = Self(1);
    /// The permitted set.
    pub const PERMITTED: Self = Self(2);
}

/// Which sets [`clear`] and [`apply`] act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Set(u32);

impl Set {
    /// The traditional sets.
    pub const CAPS: Self = Self(16);
    /// The traditional sets and the bounding set (which is left alone).
    pub const BOTH: Self = Self(48);
}

/// What [`update`] does with a capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Take it out.
    DROP,
    /// Put it in.
    ADD,
}

/// One step of an [`update`].
#[derive(Debug, Clone, Copy)]
pub struct CUpdate {
    /// Whether to add or drop.
    pub action: Action,
    /// The set.
    pub cap_type: Type,
    /// The capability.
    pub capability: Capability,
}

thread_local! {
    static PREPARED: RefCell<Option<CapsHashSet>> = const { RefCell::new(None) };
}

fn capability(number: Capability) -> Result<caps::Capability> {
    caps::all().into_iter().find(|known| Capability::from(known.index()) == number).ok_or(Error::Number(number))
}

/// Prepares an empty effective set.
pub fn clear(_set: Set) {
    PREPARED.with_borrow_mut(|prepared| *prepared = Some(CapsHashSet::new()));
}

/// Forgets what was prepared; the next [`update`] starts from the thread's set.
///
/// # Errors
/// None here; the original can fail.
pub fn get_caps_process() -> Result<()> {
    PREPARED.with_borrow_mut(|prepared| *prepared = None);
    Ok(())
}

/// Prepares the thread's effective set with `updates` applied to it.
///
/// # Errors
/// [`Error::Type`] for another set, [`Error::Number`] for an unknown capability, or what the kernel says.
pub fn update(updates: Vec<CUpdate>) -> Result<()> {
    let mut set = caps::read(None, CapSet::Effective)?;
    for step in updates {
        if step.cap_type != Type::EFFECTIVE {
            return Err(Error::Type);
        }
        let capability = capability(step.capability)?;
        match step.action {
            Action::ADD => set.insert(capability),
            Action::DROP => set.remove(&capability),
        };
    }
    PREPARED.with_borrow_mut(|prepared| *prepared = Some(set));
    Ok(())
}

/// Makes the prepared set the thread's effective set.
///
/// # Errors
/// What the kernel says.
pub fn apply(_set: Set) -> Result<()> {
    match PREPARED.with_borrow_mut(Option::take) {
        Some(set) => Ok(caps::set(None, CapSet::Effective, &set)?),
        None => Ok(()),
    }
}

/// Whether the thread has the capability in that set now.
pub fn have_capability(which: Type, number: Capability) -> bool {
    let set = if which == Type::PERMITTED { CapSet::Permitted } else { CapSet::Effective };
    capability(number).is_ok_and(|known| caps::has_cap(None, set, known).unwrap_or(false))
}

/// The number of the capability with this name, without its `CAP_` prefix.
///
/// # Errors
/// [`Error::Name`].
pub fn name_to_capability(name: &str) -> Result<Capability> {
    format!("CAP_{}", name.to_uppercase())
        .parse::<caps::Capability>()
        .map(|known| Capability::from(known.index()))
        .map_err(|_| Error::Name(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_kernels_numbers() {
        assert_eq!(name_to_capability("FSETID").unwrap(), 4);
        assert_eq!(name_to_capability("DAC_OVERRIDE").unwrap(), 1);
        assert!(name_to_capability("NO_SUCH").is_err());
    }

    #[test]
    fn a_drop_holds_until_it_is_added_back_and_for_this_thread_only() {
        let fsetid = name_to_capability("FSETID").unwrap();
        if !have_capability(Type::EFFECTIVE, fsetid) {
            return; // An unprivileged run has nothing to drop.
        }
        let step = |action| vec![CUpdate { action, cap_type: Type::EFFECTIVE, capability: fsetid }];
        update(step(Action::DROP)).unwrap();
        assert!(have_capability(Type::EFFECTIVE, fsetid), "nothing changes before apply");
        apply(Set::CAPS).unwrap();
        assert!(!have_capability(Type::EFFECTIVE, fsetid));
        let elsewhere = std::thread::spawn(move || have_capability(Type::PERMITTED, fsetid)).join().unwrap();
        assert!(elsewhere);
        update(step(Action::ADD)).unwrap();
        apply(Set::CAPS).unwrap();
        assert!(have_capability(Type::EFFECTIVE, fsetid));
    }
}
