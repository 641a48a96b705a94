//! The way of an instruction to memory: soft TLB, then the architected walk; then memory, or the machine's devices.

use std::sync::Arc;

use crate::mmu::{Access, Fault, Slb, SlbInvalidation, Translation, TranslationContext, translate};
use crate::shared::Shared;

use super::tlb::{DATA_BANKS, DataBank, FETCH_BANKS, FetchBank, PAGE_SHIFT, PAGE_SIZE, PageCode};
use super::{DataMemory, Ram, msr};

/// DSISR bit 41: data address watchpoint match.
const DSISR_WATCHPOINT: u32 = 0x0040_0000;
/// Most device accesses that one instruction can make (stmw and lswx reach 128 bytes).
const MAX_DEVICE_ACCESSES: usize = 128;

/// A reservation: what lwarx and its kin loaded, and where (II 1.7.3).
#[derive(Debug, Clone, Copy)]
struct Reservation {
    ra: u64,
    size: u8,
    value: u128,
}

/// A device access that the machine has served; the instruction is executed again and finds it here.
#[derive(Debug, Clone, Copy)]
struct Served {
    ra: u64,
    size: u8,
    load: Option<u64>,
}

/// The data address watchpoint, DAWR0 and DAWRX0 (III 9.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Watch {
    first: u64,
    last: u64,
    control: u64,
}

const WATCH_STORES: u64 = 0x40;
const WATCH_LOADS: u64 = 0x20;
const WATCH_RELOCATED: u64 = 0x10;
const WATCH_RELOCATED_IGNORED: u64 = 0x08;
const WATCH_PRIVILEGED: u64 = 0x02;
const WATCH_PROBLEM: u64 = 0x01;

/// Storage as one vCPU sees it.
pub struct Storage {
    ram: Ram,
    shared: Arc<Shared>,
    id: u32,
    /// The segment lookaside buffer.
    pub slb: Slb,
    banks: Box<[DataBank; DATA_BANKS]>,
    bank: usize,
    next_victim: usize,
    fetch: Box<[FetchBank; FETCH_BANKS]>,
    fetch_bank: usize,
    /// Counts the times that fetch translations went, so that the engine notices that its page's did.
    pub fetch_changes: u64,
    msr: u64,
    amr: u64,
    iamr: u64,
    reservation: Option<Reservation>,
    served: Vec<Served>,
    served_next: usize,
    watch: Option<Watch>,
}

/// Empty banks, made on the heap: a bank is 65 KiB.
fn data_banks() -> Box<[DataBank; DATA_BANKS]> {
    let banks = vec![DataBank::new(); DATA_BANKS].into_boxed_slice();
    banks.try_into().unwrap_or_else(|_| unreachable!("as many were made"))
}

impl Storage {
    /// Empty buffers over a partition's memory.
    pub fn new(shared: Arc<Shared>, id: u32) -> Self {
        let mut storage = Self {
            ram: shared.ram.clone(),
            shared,
            id,
            slb: Slb::default(),
            banks: data_banks(),
            bank: 0,
            next_victim: 1,
            fetch: Box::new(std::array::from_fn(|_| FetchBank::new())),
            fetch_bank: 0,
            fetch_changes: 0,
            msr: 0,
            amr: 0,
            iamr: 0,
            reservation: None,
            served: Vec::new(),
            served_next: 0,
            watch: None,
        };
        storage.set_msr(0);
        storage
    }

    /// Memory.
    #[inline(always)]
    pub fn ram(&self) -> &Ram {
        &self.ram
    }

    /// Little-endian data.
    #[inline(always)]
    pub fn little_endian(&self) -> bool {
        self.msr & msr::LE != 0
    }

    /// Chooses the banks for a new MSR.
    pub fn set_msr(&mut self, msr: u64) {
        self.msr = msr;
        self.fetch_bank = match (msr & msr::IR != 0, msr & msr::PR != 0) {
            (false, _) => 0,
            (true, false) => 1,
            (true, true) => 2,
        };
        self.choose_bank();
    }

    /// A new AMR.
    pub fn set_amr(&mut self, amr: u64) {
        self.amr = amr;
        self.choose_bank();
    }

    /// A new IAMR: it is part of what fetch translations were checked against.
    pub fn set_iamr(&mut self, iamr: u64) {
        if self.iamr != iamr {
            self.iamr = iamr;
            self.forget_fetches();
        }
    }

    fn choose_bank(&mut self) {
        if self.msr & msr::DR == 0 {
            self.bank = 0;
            return;
        }
        let key = Some((self.msr & msr::PR != 0, self.amr));
        if self.bank != 0 && self.banks[self.bank].key == key {
            return;
        }
        if let Some(found) = (1..DATA_BANKS).find(|i| self.banks[*i].key == key) {
            self.bank = found;
            return;
        }
        self.bank = self.next_victim;
        self.next_victim = self.next_victim % (DATA_BANKS - 1) + 1;
        self.banks[self.bank].clear();
        self.banks[self.bank].key = key;
    }

    fn context(&self, relocate: bool) -> TranslationContext {
        TranslationContext {
            relocate,
            problem_state: self.msr & msr::PR != 0,
            amr: self.amr,
            iamr: self.iamr,
            ram_bytes: self.ram.size(),
        }
    }

    /// The context in which data is accessed, for dumps.
    pub fn data_context(&self) -> TranslationContext {
        self.context(self.msr & msr::DR != 0)
    }

    // ---- fast paths -------------------------------------------------------------------------------------------------------

    #[inline(always)]
    fn data(&self) -> &DataBank {
        &self.banks[self.bank % DATA_BANKS]
    }

    /// The address of the data bank in force, for compiled code: of its entries for loads.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub fn bank_address(&self) -> usize {
        std::ptr::from_ref(self.data()).expose_provenance() + super::tlb::layout::LOADS
    }

    /// Loads through the soft TLB alone, as little-endian.
    #[inline(always)]
    pub fn load_fast<const N: usize>(&self, ea: u64) -> Option<u64> {
        match self.data().load.lookup_aligned::<N>(ea).and_then(|ra| self.ram.load_aligned::<N>(ra)) {
            Some(value) => Some(value),
            None if N == 1 => None,
            None => self.load_unaligned::<N>(ea),
        }
    }

    #[inline(never)]
    fn load_unaligned<const N: usize>(&self, ea: u64) -> Option<u64> {
        let ra = self.data().load.lookup(ea, N as u64)?;
        Some(self.ram.load::<N>(ra))
    }

    /// Stores through the soft TLB alone, as little-endian. False if it could not.
    #[inline(always)]
    pub fn store_fast<const N: usize>(&mut self, ea: u64, value: u64) -> bool {
        match self.data().store.lookup_aligned::<N>(ea) {
            Some(ra) if self.ram.store_aligned::<N>(ra, value) => true,
            _ if N == 1 => false,
            _ => self.store_unaligned::<N>(ea, value),
        }
    }

    #[inline(never)]
    fn store_unaligned<const N: usize>(&mut self, ea: u64, value: u64) -> bool {
        match self.data().store.lookup(ea, N as u64) {
            Some(ra) => {
                self.ram.store::<N>(ra, value);
                true
            }
            None => false,
        }
    }

    /// Loads 16 bytes as little-endian through the soft TLB alone.
    #[inline(always)]
    pub fn load_fast_quad(&self, ea: u64) -> Option<u128> {
        let ra = self.data().load.lookup(ea, 16)?;
        Some(u128::from(self.ram.load::<8>(ra)) | u128::from(self.ram.load::<8>(ra + 8)) << 64)
    }

    /// Stores 16 bytes as little-endian through the soft TLB alone.
    #[inline(always)]
    pub fn store_fast_quad(&mut self, ea: u64, value: u128) -> bool {
        match self.data().store.lookup(ea, 16) {
            Some(ra) => {
                self.ram.store::<8>(ra, value as u64);
                self.ram.store::<8>(ra + 8, (value >> 64) as u64);
                true
            }
            None => false,
        }
    }

    /// The real addresses that a load at `source` and a store at `destination` lead to, if the soft TLB knows both pages: the rest of each is
    /// memory too.
    #[inline(always)]
    pub fn known(&self, source: u64, destination: u64) -> Option<(u64, u64)> {
        Some((self.data().load.lookup(source, 1)?, self.data().store.lookup(destination, 1)?))
    }

    /// The address of the fetch translations in force, for compiled code.
    #[inline(always)]
    pub fn fetch_address(&self) -> usize {
        self.fetch[self.fetch_bank % FETCH_BANKS].address()
    }

    /// The decoded code of the page of `ea`, if its fetch translation is known.
    #[inline(always)]
    pub fn fetch_fast(&self, ea: u64, mode: u32) -> Option<u32> {
        self.fetch[self.fetch_bank % FETCH_BANKS].lookup(ea, mode)
    }

    // ---- the architected way ----------------------------------------------------------------------------------------------

    /// Translates a fetch.
    ///
    /// # Errors
    /// The instruction segment or storage interrupt; memory that is not RAM cannot be fetched from.
    pub fn translate_fetch(&self, ea: u64) -> Result<Translation, Fault> {
        let context = self.context(self.msr & msr::IR != 0);
        let translation = self.walk(&context, ea, Access::Fetch)?;
        if !self.ram.contains(translation.ra & !(PAGE_SIZE - 1), PAGE_SIZE) {
            return Err(Fault::InstructionStorage { srr1: 0x1000_0000 });
        }
        Ok(translation)
    }

    /// The architected walk, for a translation that may be kept: read again if the entry was not noted as held before.
    /// Every turn but the last means that another vCPU changed the page table in between.
    fn walk(&self, context: &TranslationContext, ea: u64, access: Access) -> Result<Translation, Fault> {
        loop {
            let translation = translate(context, &self.slb, &self.shared.hpt, ea, access)?;
            match translation.ptex {
                Some(ptex) if !self.shared.holds_entry(self.id, ptex) => {}
                _ => return Ok(translation),
            }
        }
    }

    /// Remembers a fetch translation with the page's decoded code.
    pub fn remember_fetch(&mut self, ea: u64, mode: u32, translation: &Translation, code: PageCode) {
        self.fetch[self.fetch_bank].insert(ea, mode, code, translation.ptex, translation.class);
    }

    /// Real address of `len` bytes at `ea` within one page of the soft TLB, checked for the access and remembered.
    fn translate_data(&mut self, ea: u64, len: u64, access: Access) -> Result<u64, Fault> {
        debug_assert!(ea % PAGE_SIZE + len <= PAGE_SIZE);
        let known = match access {
            Access::Store => self.banks[self.bank].store.lookup(ea, len),
            _ => self.banks[self.bank].load.lookup(ea, len),
        };
        if let Some(ra) = known {
            return Ok(ra);
        }
        let translation = self.walk(&self.data_context(), ea, access)?;
        let watched = self.watched(ea, len, access)?;
        let page = translation.ra & !(PAGE_SIZE - 1);
        if !watched && self.ram.contains(page, PAGE_SIZE) {
            let bank = &mut self.banks[self.bank];
            if translation.readable {
                bank.load.insert(ea, translation.ra, translation.ptex, translation.class);
            }
            if translation.writable {
                // Noted first, so that who marks the page as code after this check finds the note.
                self.shared.holds_stores_to(self.id, page >> PAGE_SHIFT);
                if !self.ram.code().has_code(page >> PAGE_SHIFT) {
                    bank.store.insert(ea, translation.ra, translation.ptex, translation.class);
                }
            }
        }
        Ok(translation.ra)
    }

    /// Calls `piece(self, ra, start, end)` for the one or two pages of an access, after both were translated.
    fn access(&mut self, ea: u64, len: usize, access: Access) -> Result<[(u64, usize); 2], Fault> {
        let in_first = (PAGE_SIZE - ea % PAGE_SIZE).min(len as u64) as usize;
        let first = self.translate_data(ea, in_first as u64, access)?;
        if in_first == len {
            return Ok([(first, len), (0, 0)]);
        }
        let mut next = ea.wrapping_add(in_first as u64);
        if self.msr & msr::SF == 0 {
            next &= 0xffff_ffff;
        }
        let second = self.translate_data(next, (len - in_first) as u64, access)?;
        Ok([(first, in_first), (second, len - in_first)])
    }

    fn is_device(&self, pieces: &[(u64, usize); 2]) -> bool {
        pieces.iter().any(|(ra, len)| *len != 0 && !self.ram.contains(*ra, *len as u64))
    }

    /// A load from the machine's devices: served already, or to be served.
    fn device_load(&mut self, pieces: [(u64, usize); 2], ea: u64, size: u8) -> Result<u128, Fault> {
        if pieces[1].1 != 0 {
            return Err(Fault::Alignment { ea });
        }
        let ra = pieces[0].0;
        if size == 16 {
            let (first, second) = (self.device_load_one(ra, 8)?, self.device_load_one(ra.wrapping_add(8), 8)?);
            let (low, high) = if self.little_endian() { (first, second) } else { (second, first) };
            return Ok(u128::from(high) << 64 | u128::from(low));
        }
        self.device_load_one(ra, size).map(u128::from)
    }

    fn device_load_one(&mut self, ra: u64, size: u8) -> Result<u64, Fault> {
        if let Some(served) = self.served.get(self.served_next)
            && let (Some(value), true) = (served.load, served.ra == ra && served.size == size)
        {
            self.served_next += 1;
            return Ok(value);
        }
        Err(Fault::Mmio { ra, size, store: None, little_endian: self.little_endian() })
    }

    fn device_store(&mut self, pieces: [(u64, usize); 2], ea: u64, size: u8, value: u128) -> Result<(), Fault> {
        if pieces[1].1 != 0 {
            return Err(Fault::Alignment { ea });
        }
        let ra = pieces[0].0;
        if size == 16 {
            let (first, second) = if self.little_endian() { (value, value >> 64) } else { (value >> 64, value) };
            self.device_store_one(ra, 8, first as u64)?;
            return self.device_store_one(ra.wrapping_add(8), 8, second as u64);
        }
        self.device_store_one(ra, size, value as u64)
    }

    fn device_store_one(&mut self, ra: u64, size: u8, value: u64) -> Result<(), Fault> {
        if let Some(served) = self.served.get(self.served_next)
            && served.load.is_none()
            && served.ra == ra
            && served.size == size
        {
            self.served_next += 1;
            return Ok(());
        }
        Err(Fault::Mmio { ra, size, store: Some(value), little_endian: self.little_endian() })
    }

    /// The machine has served a device access of the current instruction; it will be executed again.
    pub fn serve(&mut self, ra: u64, size: u8, load: Option<u64>) {
        if self.served.len() < MAX_DEVICE_ACCESSES {
            self.served.push(Served { ra, size, load });
        }
        self.served_next = 0;
    }

    /// The instruction with device accesses is executed again, from its first one.
    pub fn rewind_served(&mut self) {
        self.served_next = 0;
    }

    /// The instruction with device accesses is complete, or was given up.
    pub fn forget_served(&mut self) {
        self.served.clear();
        self.served_next = 0;
    }

    /// True if all of `len` bytes at `ea` may be stored to now: for instructions that store more than once.
    ///
    /// # Errors
    /// The interrupt that the store raises.
    pub fn probe_store(&mut self, ea: u64, len: usize) -> Result<(), Fault> {
        self.access(ea, len, Access::Store).map(|_| ())
    }

    /// dcbz: clears the aligned block of `len` bytes.
    ///
    /// # Errors
    /// The interrupt of the store; alignment for storage that cannot be cached.
    pub fn zero(&mut self, ea: u64, len: u64) -> Result<(), Fault> {
        let ra = self.translate_data(ea, len, Access::Store)?;
        if !self.ram.contains(ra, len) {
            return Err(Fault::Alignment { ea });
        }
        self.ram.zero(ra, len);
        self.ram.code().wrote(ra, len);
        Ok(())
    }

    /// icbi: the block's page may hold code that was decoded before it changed.
    ///
    /// # Errors
    /// The data interrupt of a load.
    pub fn invalidate_code(&mut self, ea: u64) -> Result<(), Fault> {
        let ra = self.translate_data(ea, 1, Access::Load)?;
        self.ram.code().wrote(ra, 1);
        Ok(())
    }

    /// Checks that a load would go through (dcbst, dcbf, icbi, copy).
    ///
    /// # Errors
    /// The data interrupt.
    pub fn touch(&mut self, ea: u64) -> Result<(), Fault> {
        self.translate_data(ea, 1, Access::Load).map(|_| ())
    }

    /// Loads and reserves; `ea` is aligned to `size` (1 to 16).
    ///
    /// # Errors
    /// The interrupt of the load; DSI for storage that cannot be cached.
    pub fn load_reserve(&mut self, ea: u64, size: u8) -> Result<u128, Fault> {
        let ra = self.translate_data(ea, u64::from(size), Access::Load)?;
        if !self.ram.contains(ra, u64::from(size)) {
            return Err(Fault::DataStorage { dsisr: DSISR_BAD_ATOMIC, ea });
        }
        let value = self.read_ram(ra, size);
        self.reservation = Some(Reservation { ra, size, value });
        Ok(self.order(value, size))
    }

    /// Stores if the reservation is still there: it names the same bytes, and they still have the value that was loaded.
    ///
    /// # Errors
    /// The interrupt of the store; the reservation is kept then.
    pub fn store_conditional(&mut self, ea: u64, size: u8, value: u128) -> Result<bool, Fault> {
        let ra = self.translate_data(ea, u64::from(size), Access::Store)?;
        let Some(reservation) = self.reservation.take() else {
            return Ok(false);
        };
        if reservation.ra != ra || reservation.size != size {
            return Ok(false);
        }
        let stored = self.swap_ram(ra, size, reservation.value, self.order(value, size));
        Ok(stored)
    }

    /// Replaces `old` by `new` at the aligned `ea`, atomically; false if something else is there.
    ///
    /// # Errors
    /// The interrupt of the store.
    pub fn compare_and_swap(&mut self, ea: u64, size: u8, old: u64, new: u64) -> Result<bool, Fault> {
        let ra = self.translate_data(ea, u64::from(size), Access::Store)?;
        if !self.ram.contains(ra, u64::from(size)) {
            return Err(Fault::DataStorage { dsisr: DSISR_BAD_ATOMIC | DSISR_STORE, ea });
        }
        let (old, new) = (self.order(u128::from(old), size), self.order(u128::from(new), size));
        Ok(self.swap_ram(ra, size, old, new))
    }

    fn swap_ram(&mut self, ra: u64, size: u8, old: u128, new: u128) -> bool {
        let stored = if size == 16 {
            self.ram.compare_and_swap_quad(ra, old, new)
        } else {
            self.ram.compare_and_swap(ra, size, old as u64, new as u64)
        };
        if stored {
            self.ram.code().wrote(ra, u64::from(size));
        }
        stored
    }

    /// A value in memory order (little-endian) to register order and back.
    fn order(&self, value: u128, size: u8) -> u128 {
        if self.little_endian() { value } else { value.swap_bytes() >> (128 - 8 * u32::from(size)) }
    }

    fn read_ram(&self, ra: u64, size: u8) -> u128 {
        match size {
            1 => u128::from(self.ram.load::<1>(ra)),
            2 => u128::from(self.ram.load::<2>(ra)),
            4 => u128::from(self.ram.load::<4>(ra)),
            8 => u128::from(self.ram.load::<8>(ra)),
            _ => u128::from(self.ram.load::<8>(ra)) | u128::from(self.ram.load::<8>(ra + 8)) << 64,
        }
    }

    // ---- forgetting -------------------------------------------------------------------------------------------------------

    /// Forgets what an SLB instruction made stale.
    pub fn forget_segments(&mut self, what: SlbInvalidation) {
        if what == SlbInvalidation::None {
            return;
        }
        for bank in &mut self.banks[1..] {
            if bank.key.is_some() {
                bank.drop_segments(what);
            }
        }
        for bank in &mut self.fetch[1..] {
            if bank.drop_segments(what) {
                self.fetch_changes += 1;
            }
        }
    }

    /// Forgets what came through a page table entry.
    pub fn forget_ptex(&mut self, ptex: u64) {
        for bank in &mut self.banks[1..] {
            if bank.key.is_some() {
                bank.drop_ptex(ptex);
            }
        }
        for bank in &mut self.fetch[1..] {
            if bank.drop_ptex(ptex) {
                self.fetch_changes += 1;
            }
        }
    }

    /// Forgets permissions to store to a real page: code in it is being decoded.
    pub fn forget_stores_to(&mut self, page: u64) {
        for bank in self.banks.iter_mut() {
            bank.store.drop_real_page(page);
        }
    }

    /// Forgets all translations.
    pub fn forget_all(&mut self) {
        for bank in self.banks.iter_mut() {
            bank.clear();
        }
        self.forget_fetches();
    }

    /// Forgets all fetch translations.
    pub fn forget_fetches(&mut self) {
        for bank in self.fetch.iter_mut() {
            bank.clear();
        }
        self.fetch_changes += 1;
    }

    // ---- watchpoint -------------------------------------------------------------------------------------------------------

    /// Sets DAWR0 and DAWRX0.
    pub fn set_watchpoint(&mut self, address: u64, control: u64) {
        let doublewords = (control >> 10 & 0x3f) + 1;
        let first = address & !7;
        let enabled = control & (WATCH_STORES | WATCH_LOADS) != 0;
        self.watch = enabled.then_some(Watch { first, last: first.saturating_add(doublewords * 8 - 1), control });
        for bank in self.banks.iter_mut() {
            bank.clear();
        }
    }

    /// True if the page of `ea` has a watchpoint and must not be remembered.
    ///
    /// # Errors
    /// The data storage interrupt of a match.
    fn watched(&self, ea: u64, len: u64, access: Access) -> Result<bool, Fault> {
        let Some(watch) = self.watch else {
            return Ok(false);
        };
        let state = if self.msr & msr::PR != 0 { WATCH_PROBLEM } else { WATCH_PRIVILEGED };
        let kind = if access == Access::Store { WATCH_STORES } else { WATCH_LOADS };
        let relocation =
            watch.control & WATCH_RELOCATED_IGNORED != 0 || (watch.control & WATCH_RELOCATED != 0) == (self.msr & msr::DR != 0);
        let last = ea.saturating_add(len - 1);
        if watch.control & state != 0 && watch.control & kind != 0 && relocation && ea <= watch.last && last >= watch.first {
            let store = if access == Access::Store { DSISR_STORE } else { 0 };
            return Err(Fault::DataStorage { dsisr: DSISR_WATCHPOINT | store, ea });
        }
        let page = ea >> PAGE_SHIFT;
        Ok(page >= watch.first >> PAGE_SHIFT && page <= watch.last >> PAGE_SHIFT)
    }
}

/// DSISR bit 37: lwarx or stwcx. to storage that is caching inhibited.
const DSISR_BAD_ATOMIC: u32 = 0x0400_0000;
/// DSISR bit 38: the access was a store.
const DSISR_STORE: u32 = 0x0200_0000;

impl DataMemory for Storage {
    fn load(&mut self, ea: u64, size: u8) -> Result<u128, Fault> {
        let ea = if self.msr & msr::SF == 0 { ea & 0xffff_ffff } else { ea };
        let pieces = self.access(ea, usize::from(size), Access::Load)?;
        if self.is_device(&pieces) {
            return self.device_load(pieces, ea, size);
        }
        if pieces[1].1 == 0 {
            let value = self.read_ram(pieces[0].0, size);
            return Ok(self.order(value, size));
        }
        let mut bytes = [0u8; 16];
        let mut at = 0;
        for (ra, len) in pieces {
            for i in 0..len {
                bytes[at] = self.ram.load::<1>(ra + i as u64) as u8;
                at += 1;
            }
        }
        Ok(self.order(u128::from_le_bytes(bytes), size))
    }

    fn store(&mut self, ea: u64, size: u8, value: u128) -> Result<(), Fault> {
        let ea = if self.msr & msr::SF == 0 { ea & 0xffff_ffff } else { ea };
        let pieces = self.access(ea, usize::from(size), Access::Store)?;
        if self.is_device(&pieces) {
            return self.device_store(pieces, ea, size, value);
        }
        let memory_order = self.order(value, size);
        if pieces[1].1 == 0 {
            let ra = pieces[0].0;
            match size {
                1 => self.ram.store::<1>(ra, memory_order as u64),
                2 => self.ram.store::<2>(ra, memory_order as u64),
                4 => self.ram.store::<4>(ra, memory_order as u64),
                8 => self.ram.store::<8>(ra, memory_order as u64),
                _ => {
                    self.ram.store::<8>(ra, memory_order as u64);
                    self.ram.store::<8>(ra + 8, (memory_order >> 64) as u64);
                }
            }
            self.ram.code().wrote(ra, u64::from(size));
            return Ok(());
        }
        let bytes = memory_order.to_le_bytes();
        let mut at = 0;
        for (ra, len) in pieces {
            for i in 0..len {
                self.ram.store::<1>(ra + i as u64, u64::from(bytes[at]));
                at += 1;
            }
            self.ram.code().wrote(ra, len as u64);
        }
        Ok(())
    }
}
