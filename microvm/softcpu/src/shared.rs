//! What the vCPUs of a partition share: memory, page table, clock, interrupt mode, and the mailboxes by which they and other
//! threads reach each other.
//!
//! Invalidations are the one place where a vCPU waits for others. A vCPU that made a translation stale posts it to all
//! others and waits until each has either taken its mail at a block boundary or is outside the guest, where it takes its mail
//! before it goes in again. While it waits it takes its own mail, so two that wait for each other both go on. That is
//! what `tlbie; tlbsync; ptesync` promise (ISA 3.0B III 5.9.3.3).

use std::fs::File;
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use paperboat_hypervisor::{BackendError, GuestRam, InterruptMode, VcpuStats, VmConfig};

use crate::clock::Clock;
use crate::exec::{Areas, Ram};
use crate::mmu::Hpt;

/// Invalidations a vCPU keeps by name; beyond that it forgets everything.
const MAX_MAIL: usize = 64;

/// What a vCPU has to forget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forget {
    /// Translations through this page table entry.
    Ptex(u64),
    /// Permissions to store to this real page number, since its code is being decoded.
    StoresTo(u64),
    /// Decoded code of this real page number.
    Code(u64),
    /// All translations and all code.
    All,
}

/// Reasons for a vCPU to look up at the next block boundary.
pub mod attention {
    /// Another thread asked `run` to return.
    pub const KICK: u32 = 1;
    /// The external interrupt input is asserted.
    pub const EXTERNAL: u32 = 2;
    /// There is mail.
    pub const MAIL: u32 = 4;
    /// An interrupt may have become pending, or H_PROD came.
    pub const NOTICE: u32 = 8;
    /// H_PROD.
    pub const PROD: u32 = 16;
    /// The bits that matter in every state. (H_PROD waits for the next H_CEDE.)
    pub const ALWAYS: u32 = KICK | MAIL | NOTICE | RESET;
    /// A system reset was asked for.
    pub const RESET: u32 = 32;
    /// A machine check was injected.
    pub const MACHINE_CHECK: u32 = 64;
}

/// One vCPU as the others see it.
#[derive(Debug, Default)]
struct Mailbox {
    attention: Arc<AtomicU32>,
    mail: Mutex<Vec<Forget>>,
    /// Count of posts, and of those that were taken.
    posted: AtomicU64,
    taken: AtomicU64,
    in_guest: AtomicBool,
    exists: AtomicBool,
    areas: Mutex<Areas>,
    sleep: Mutex<()>,
    wake: Condvar,
    instructions: AtomicU64,
    hypercalls: AtomicU64,
    interrupts: AtomicU64,
    cedes: AtomicU64,
}

/// The partition.
#[derive(Debug)]
pub struct Shared {
    /// Memory as vCPUs touch it.
    pub ram: Ram,
    /// Memory as devices touch it.
    pub memory: GuestRam,
    /// The hashed page table.
    pub hpt: Hpt,
    /// Guest time.
    pub clock: Clock,
    /// Budget of instructions per vCPU.
    pub budget: Option<u64>,
    /// AIL in the low byte, ILE above it.
    interrupt_mode: AtomicU32,
    mailboxes: Box<[Mailbox]>,
    entropy: Mutex<Entropy>,
}

#[derive(Debug)]
enum Entropy {
    /// The host's, opened before any jail.
    Host(File),
    /// A fixed sequence (splitmix64) for deterministic runs.
    Sequence(u64),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// A partition after `config`, with its vCPUs yet to be made.
    ///
    /// # Errors
    /// [`BackendError::Os`] if the host's entropy cannot be opened.
    pub fn new(config: &VmConfig, hpt: Hpt) -> Result<Self, BackendError> {
        let clock = Clock::new(config.clock);
        let entropy = if clock.is_deterministic() {
            Entropy::Sequence(0)
        } else {
            let call = "open /dev/urandom".to_owned();
            Entropy::Host(File::open("/dev/urandom").map_err(|source| BackendError::Os { call, source })?)
        };
        Ok(Self {
            ram: Ram::new(&config.ram),
            memory: config.ram.clone(),
            hpt,
            clock,
            budget: config.budget_instructions,
            interrupt_mode: AtomicU32::new(0),
            mailboxes: (0..config.vcpu_count).map(|_| Mailbox::default()).collect(),
            entropy: Mutex::new(entropy),
        })
    }

    /// Number of vCPUs that may exist.
    pub fn vcpu_count(&self) -> u32 {
        self.mailboxes.len() as u32
    }

    /// Random bits for darn and H_RANDOM.
    pub fn random(&self) -> u64 {
        match &mut *lock(&self.entropy) {
            Entropy::Sequence(state) => {
                *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mixed = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
                mixed ^ mixed >> 31
            }
            Entropy::Host(file) => {
                let mut bytes = [0; 8];
                match file.read_exact(&mut bytes) {
                    Ok(()) => u64::from_ne_bytes(bytes),
                    // All ones is darn's error value (ISA 3.0B I 3.3.9).
                    Err(_) => u64::MAX,
                }
            }
        }
    }

    /// LPCR's AIL and ILE.
    #[inline]
    pub fn interrupt_mode(&self) -> (u8, bool) {
        let mode = self.interrupt_mode.load(Ordering::Relaxed);
        (mode as u8, mode >> 8 != 0)
    }

    /// Changes AIL and ILE for all vCPUs.
    pub fn set_interrupt_mode(&self, change: InterruptMode) {
        let merge = |mode: u32| {
            let ail = change.ail.map_or(mode & 0xff, u32::from);
            let ile = change.little_endian.map_or(mode >> 8, u32::from);
            Some(ile << 8 | ail)
        };
        // The closure always gives a value, so the update cannot fail.
        let _ = self.interrupt_mode.fetch_update(Ordering::SeqCst, Ordering::SeqCst, merge);
    }

    fn mailbox(&self, id: u32) -> Option<&Mailbox> {
        self.mailboxes.get(id as usize)
    }

    /// Marks vCPU `id` as made; false if it was already or lies beyond the count.
    pub fn claim(&self, id: u32) -> bool {
        self.mailbox(id).is_some_and(|mailbox| !mailbox.exists.swap(true, Ordering::SeqCst))
    }

    /// True if the vCPU was made.
    pub fn exists(&self, id: u32) -> bool {
        self.mailbox(id).is_some_and(|mailbox| mailbox.exists.load(Ordering::SeqCst))
    }

    // ---- attention --------------------------------------------------------------------------------------------------------

    /// The word that [`Self::attention`] reads, for the vCPU that reads it at every block boundary.
    pub fn attention_word(&self, id: u32) -> Arc<AtomicU32> {
        self.mailbox(id).map_or_else(Arc::default, |mailbox| Arc::clone(&mailbox.attention))
    }

    /// What vCPU `id` should look at.
    pub fn attention(&self, id: u32) -> u32 {
        self.mailboxes.get(id as usize).map_or(0, |mailbox| mailbox.attention.load(Ordering::Relaxed))
    }

    /// Raises attention bits and wakes the vCPU if it sleeps.
    pub fn raise(&self, id: u32, bits: u32) {
        let Some(mailbox) = self.mailbox(id) else { return };
        mailbox.attention.fetch_or(bits, Ordering::SeqCst);
        // Taking the lock orders this with a sleeper between its last look and its wait.
        drop(lock(&mailbox.sleep));
        mailbox.wake.notify_all();
    }

    /// Clears attention bits; true if any of them was set.
    pub fn clear(&self, id: u32, bits: u32) -> bool {
        self.mailbox(id).is_some_and(|mailbox| mailbox.attention.fetch_and(!bits, Ordering::SeqCst) & bits != 0)
    }

    /// Makes vCPU `id` evaluate its interrupts at the next block boundary.
    pub fn notice(&self, id: u32) {
        self.raise(id, attention::NOTICE);
    }

    /// The external interrupt input.
    pub fn external(&self, id: u32) -> bool {
        self.attention(id) & attention::EXTERNAL != 0
    }

    /// Sleeps until one of `bits` is raised or `limit` has passed. Mail does not wake: the sleeper is outside the guest.
    pub fn sleep(&self, id: u32, bits: u32, limit: Duration) {
        let Some(mailbox) = self.mailbox(id) else { return };
        let guard = lock(&mailbox.sleep);
        let quiet = |_: &mut ()| mailbox.attention.load(Ordering::SeqCst) & bits == 0;
        // Both results only tell why the wait ended; the caller looks for itself.
        drop(mailbox.wake.wait_timeout_while(guard, limit, quiet));
    }

    // ---- mail -------------------------------------------------------------------------------------------------------------

    /// The vCPU is about to execute guest instructions; its mail is to be taken after this and before the first one.
    pub fn enter_guest(&self, id: u32) {
        if let Some(mailbox) = self.mailbox(id) {
            mailbox.in_guest.store(true, Ordering::SeqCst);
        }
    }

    /// The vCPU executes no guest instructions until it enters again.
    pub fn leave_guest(&self, id: u32) {
        if let Some(mailbox) = self.mailbox(id) {
            mailbox.in_guest.store(false, Ordering::SeqCst);
        }
    }

    /// Takes the mail of vCPU `id`. The caller acts on it, then calls [`Self::mail_done`] with the number.
    pub fn take_mail(&self, id: u32) -> (Vec<Forget>, u64) {
        let Some(mailbox) = self.mailbox(id) else {
            return (Vec::new(), 0);
        };
        let mut mail = lock(&mailbox.mail);
        mailbox.attention.fetch_and(!attention::MAIL, Ordering::SeqCst);
        (std::mem::take(&mut *mail), mailbox.posted.load(Ordering::SeqCst))
    }

    /// The mail up to `number` has been acted on.
    pub fn mail_done(&self, id: u32, number: u64) {
        if let Some(mailbox) = self.mailbox(id) {
            mailbox.taken.fetch_max(number, Ordering::SeqCst);
        }
    }

    /// Posts to every vCPU but `from`, without waiting.
    pub fn post(&self, from: u32, what: Forget) {
        for (id, mailbox) in self.mailboxes.iter().enumerate() {
            if id as u32 == from || !mailbox.exists.load(Ordering::SeqCst) {
                continue;
            }
            let mut mail = lock(&mailbox.mail);
            if mail.len() >= MAX_MAIL {
                mail.clear();
                mail.push(Forget::All);
            } else {
                mail.push(what);
            }
            mailbox.posted.fetch_add(1, Ordering::SeqCst);
            mailbox.attention.fetch_or(attention::MAIL, Ordering::SeqCst);
        }
    }

    /// True if every vCPU but `from` has taken what was posted so far or is outside the guest.
    pub fn all_taken(&self, from: u32) -> bool {
        self.mailboxes.iter().enumerate().all(|(id, mailbox)| {
            id as u32 == from
                || !mailbox.in_guest.load(Ordering::SeqCst)
                || mailbox.taken.load(Ordering::SeqCst) >= mailbox.posted.load(Ordering::SeqCst)
        })
    }

    /// True if `from` is the only vCPU that was made.
    pub fn is_alone(&self, from: u32) -> bool {
        self.mailboxes.iter().enumerate().all(|(id, m)| id as u32 == from || !m.exists.load(Ordering::SeqCst))
    }

    // ---- registered areas -------------------------------------------------------------------------------------------------

    /// The areas that were registered for vCPU `id`, if it exists.
    pub fn with_areas<T>(&self, id: u32, act: impl FnOnce(&mut Areas) -> T) -> Option<T> {
        let mailbox = self.mailbox(id).filter(|mailbox| mailbox.exists.load(Ordering::SeqCst))?;
        Some(act(&mut lock(&mailbox.areas)))
    }

    /// Notes in the vCPU's VPA that it runs or does not.
    pub fn yielded(&self, id: u32, running: bool) {
        self.with_areas(id, |areas| areas.yielded(&self.ram, running));
    }

    // ---- counters ---------------------------------------------------------------------------------------------------------

    /// Publishes the instruction count.
    pub fn publish_instructions(&self, id: u32, count: u64) {
        if let Some(mailbox) = self.mailbox(id) {
            mailbox.instructions.store(count, Ordering::Relaxed);
        }
    }

    /// Counts a hypercall that was served here.
    pub fn count_hypercall(&self, id: u32) {
        if let Some(mailbox) = self.mailbox(id) {
            mailbox.hypercalls.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts an interrupt.
    pub fn count_interrupt(&self, id: u32) {
        if let Some(mailbox) = self.mailbox(id) {
            mailbox.interrupts.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a cede.
    pub fn count_cede(&self, id: u32) {
        if let Some(mailbox) = self.mailbox(id) {
            mailbox.cedes.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The counters of a vCPU.
    pub fn stats(&self, id: u32) -> VcpuStats {
        self.mailbox(id).map_or_else(VcpuStats::default, |mailbox| VcpuStats {
            instructions: Some(mailbox.instructions.load(Ordering::Relaxed)),
            hypercalls_inside: mailbox.hypercalls.load(Ordering::Relaxed),
            interrupts: mailbox.interrupts.load(Ordering::Relaxed),
            cedes: mailbox.cedes.load(Ordering::Relaxed),
        })
    }
}
