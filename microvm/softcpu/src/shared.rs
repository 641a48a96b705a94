//! What the vCPUs of a partition share: memory, page table, clock, interrupt mode, and the mailboxes by which they and other
//! threads reach each other.
//!
//! Invalidations are the one place where a vCPU waits for others. A vCPU that made a translation stale posts it to all
//! others and waits until each has either taken its mail at a block boundary or is outside the guest, where it takes its mail
//! before it goes in again. While it waits it takes its own mail, so two that wait for each other both go on. That is
//! what `tlbie; tlbsync; ptesync` promise (ISA 3.0B III 5.9.3.3).

use std::fs::File;
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use paperboat_hypervisor::{
    BackendError, CODE_PAGE_SIZE, GuestRam, INTERRUPT_KINDS, InterruptMode, Processor, VcpuStats, VmConfig,
};

use crate::clock::Clock;
use crate::exec::{Areas, Ram};
use crate::mmu::Hpt;
use crate::table::Level;

/// A set of numbers below a limit, written by one vCPU and read by all: what that vCPU may hold in its soft TLB.
///
/// It lets an invalidation pass by the vCPUs that it does not concern. A vCPU notes a number *before* it reads what the number
/// stands for (the page table entry, the page's code mark); who changes that thing looks into the set *after* the change. With a
/// full fence between the two steps on both sides, either the one sees the change or the other sees the note.
#[derive(Debug)]
struct Notes {
    words: Box<[AtomicU64]>,
}

impl Notes {
    /// Of numbers below `count`. Memory is behind what was noted only.
    fn new(count: u64) -> Self {
        Self { words: bytemuck::zeroed_slice_box(count.div_ceil(64) as usize) }
    }

    fn word(&self, number: u64) -> Option<&AtomicU64> {
        self.words.get(usize::try_from(number / 64).ok()?)
    }

    /// A number beyond the limit counts as noted.
    fn contains(&self, number: u64) -> bool {
        self.word(number).is_none_or(|word| word.load(Ordering::Relaxed) >> (number % 64) & 1 != 0)
    }

    fn insert(&self, number: u64) {
        if let Some(word) = self.word(number) {
            word.fetch_or(1 << (number % 64), Ordering::Relaxed);
        }
    }

    fn remove(&self, number: u64) {
        if let Some(word) = self.word(number) {
            word.fetch_and(!(1 << (number % 64)), Ordering::Relaxed);
        }
    }
}

/// What a vCPU may hold: translations by page table entry, store permissions by real page.
#[derive(Debug)]
struct Held {
    entries: Notes,
    stores: Notes,
}

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
    pub const ALWAYS: u32 = KICK | MAIL | NOTICE | RESET | DOORBELL;
    /// A system reset was asked for.
    pub const RESET: u32 = 32;
    /// A machine check was injected.
    pub const MACHINE_CHECK: u32 = 64;
    /// Another thread of the core sent a doorbell.
    pub const DOORBELL: u32 = 128;
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
    /// Kept only where there are other vCPUs.
    held: OnceLock<Held>,
    sleep: Mutex<()>,
    wake: Condvar,
    instructions: AtomicU64,
    hypercalls: AtomicU64,
    interrupts: [AtomicU64; INTERRUPT_KINDS.len()],
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
    /// The version of the architecture that programs may use.
    pub newest: Level,
    /// vCPUs of a core.
    pub threads_per_core: u32,
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
            newest: match config.processor {
                Processor::Native => Level::V300,
                Processor::Power8 => Level::V207,
            },
            threads_per_core: config.threads_per_core.max(1),
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
        let Some(mailbox) = self.mailbox(id) else { return false };
        if self.vcpu_count() > 1 {
            let pages = self.ram.size() / CODE_PAGE_SIZE;
            mailbox.held.get_or_init(|| Held { entries: Notes::new(self.hpt.entry_count()), stores: Notes::new(pages) });
        }
        !mailbox.exists.swap(true, Ordering::SeqCst)
    }

    fn held(&self, id: u32) -> Option<&Held> {
        self.mailbox(id)?.held.get()
    }

    /// Notes that vCPU `id` is about to hold a translation through `ptex`. True if that was noted before: what was read of the entry
    /// since then may be kept. If not, it has to be read again.
    pub fn holds_entry(&self, id: u32, ptex: u64) -> bool {
        let Some(held) = self.held(id) else { return true };
        let noted = held.entries.contains(ptex);
        if !noted {
            held.entries.insert(ptex);
            fence(Ordering::SeqCst);
        }
        noted
    }

    /// Notes that vCPU `id` is about to hold a permission to store to real page number `page`, if it has no code by then.
    pub fn holds_stores_to(&self, id: u32, page: u64) {
        if let Some(held) = self.held(id)
            && !held.stores.contains(page)
        {
            held.stores.insert(page);
            fence(Ordering::SeqCst);
        }
    }

    /// vCPU `id` has forgotten it.
    pub fn holds_no_more(&self, id: u32, what: Forget) {
        let Some(held) = self.held(id) else { return };
        match what {
            Forget::Ptex(ptex) => held.entries.remove(ptex),
            Forget::StoresTo(page) => held.stores.remove(page),
            Forget::Code(_) | Forget::All => {}
        }
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

    /// Which thread of its core vCPU `id` is.
    pub fn thread_of(&self, id: u32) -> u32 {
        id % self.threads_per_core
    }

    /// The vCPU that is thread `thread` of the core of vCPU `id`.
    pub fn sibling(&self, id: u32, thread: u32) -> Option<u32> {
        let sibling = id - self.thread_of(id) + thread;
        (thread < self.threads_per_core && sibling < self.vcpu_count()).then_some(sibling)
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
            // Whoever still saw this vCPU outside has posted before it looked: the attention word read from here on says so.
            fence(Ordering::SeqCst);
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

    /// Posts to every vCPU but `from` that it may concern, without waiting. True if there was one.
    pub fn post(&self, from: u32, what: Forget) -> bool {
        fence(Ordering::SeqCst);
        let mut any = false;
        for (id, mailbox) in self.mailboxes.iter().enumerate() {
            if id as u32 == from || !mailbox.exists.load(Ordering::SeqCst) {
                continue;
            }
            let concerned = mailbox.held.get().is_none_or(|held| match what {
                Forget::Ptex(ptex) => held.entries.contains(ptex),
                Forget::StoresTo(page) => held.stores.contains(page),
                Forget::Code(_) | Forget::All => true,
            });
            if !concerned {
                continue;
            }
            any = true;
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
        any
    }

    /// True if every vCPU but `from` has taken what was posted so far or is outside the guest.
    pub fn all_taken(&self, from: u32) -> bool {
        self.mailboxes.iter().enumerate().all(|(id, mailbox)| {
            id as u32 == from
                || !mailbox.in_guest.load(Ordering::SeqCst)
                || mailbox.taken.load(Ordering::SeqCst) >= mailbox.posted.load(Ordering::SeqCst)
        })
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

    /// Counts an interrupt by its place in [`INTERRUPT_KINDS`].
    pub fn count_interrupt(&self, id: u32, kind: usize) {
        if let Some(mailbox) = self.mailbox(id) {
            mailbox.interrupts[kind].fetch_add(1, Ordering::Relaxed);
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
            interrupts: std::array::from_fn(|kind| mailbox.interrupts[kind].load(Ordering::Relaxed)),
            cedes: mailbox.cedes.load(Ordering::Relaxed),
        })
    }
}

#[cfg(test)]
mod tests {
    use paperboat_hypervisor::ClockMode;

    use super::*;

    fn partition(vcpu_count: u32) -> Shared {
        let ram = GuestRam::new(1 << 20).unwrap();
        let config = VmConfig {
            ram,
            vcpu_count,
            hpt_order: 18,
            clock: ClockMode::Host,
            budget_instructions: None,
            processor: Default::default(),
            threads_per_core: 1,
            presentation: Default::default(),
        };
        Shared::new(&config, Hpt::new(18).unwrap()).unwrap()
    }

    #[test]
    fn an_invalidation_passes_by_whom_it_does_not_concern() {
        let shared = partition(3);
        assert!((0..3).all(|id| shared.claim(id)) && !shared.claim(0));
        assert!(!shared.post(0, Forget::Ptex(7)), "nobody holds it");
        assert!(!shared.holds_entry(1, 7), "not noted before, so it is read again");
        assert!(shared.holds_entry(1, 7));
        assert!(shared.post(0, Forget::Ptex(7)));
        assert_eq!((shared.take_mail(1).0, shared.take_mail(2).0), (vec![Forget::Ptex(7)], vec![]));
        shared.holds_no_more(1, Forget::Ptex(7));
        assert!(!shared.post(0, Forget::Ptex(7)));
        assert!(shared.post(0, Forget::Code(1)), "code concerns everybody");
    }

    #[test]
    fn a_full_mailbox_means_everything() {
        let shared = partition(2);
        assert!(shared.claim(0) && shared.claim(1));
        for page in 0..=MAX_MAIL as u64 {
            shared.post(0, Forget::Code(page));
        }
        shared.enter_guest(1);
        assert!(!shared.all_taken(0));
        let (mail, number) = shared.take_mail(1);
        assert_eq!(mail, vec![Forget::All]);
        shared.mail_done(1, number);
        assert!(shared.all_taken(0));
    }

    #[test]
    fn alone_there_is_nothing_to_note() {
        let shared = partition(1);
        assert!(shared.claim(0));
        assert!(shared.holds_entry(0, 7));
    }
}
