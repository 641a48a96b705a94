//! The engine of one vCPU: blocks, interrupts, checks, hypercalls, and the ways out.

use std::time::Duration;

use paperboat_hypervisor::Exit;

use crate::clock::Clock;
use crate::dump;
use crate::mmu::Fault;
use crate::shared::{Forget, attention};
use crate::table::{Insn, Op, decode};
use crate::trace::Place;

use super::block::{CodeCache, MAX_BLOCK};
use super::compile::Compiler;
use super::copying;
use super::fuse::fuse;
use super::hcall::{self, Outcome};
use super::hot::{self, Here, Pause};
use super::lower::translate;
use super::tlb::{PAGE_SHIFT, PAGE_SIZE};
use super::uop::{MODE_64, MODE_LE, Uop, may_fall_through};
use super::wait::{Step, Waiting};
use super::{Cpu, Interrupt, Stop, execute, hypercall_args, msr, program, sprn};

/// Instructions between two looks at the host's clock.
const CHECK_INTERVAL: u64 = 4096;
/// Longest sleep in one go; a bound on what a lost wake-up could cost.
const LONGEST_SLEEP: Duration = Duration::from_millis(500);

/// Conditional branches behind which a block goes on. More would decode more code than runs.
const MAX_SIDE_EXITS: usize = 3;

/// Turns of waiting for other vCPUs' acknowledgement before sleeping between them.
const SPINS_BEFORE_SLEEP: u32 = 2000;
/// Sleep between two looks for the acknowledgement.
const ACKNOWLEDGE_INTERVAL: Duration = Duration::from_micros(20);

/// What the machine owes before the vCPU goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owed {
    /// Nothing.
    Nothing,
    /// The reply of a hypercall.
    Hypercall,
    /// The data of a load.
    Load { ra: u64, size: u8, little_endian: bool },
}

/// A vCPU with its decoded code.
pub(crate) struct Engine {
    pub(crate) cpu: Cpu,
    code: CodeCache,
    here: Here,
    pub(crate) owed: Owed,
    /// The instruction at PC has had device accesses served and is executed alone.
    replay: bool,
    /// H_CEDE has not found a reason to return yet.
    ceded: bool,
    waiting: Waiting,
}

impl Engine {
    pub(crate) fn new(cpu: Cpu, compile_after: Option<u8>) -> Self {
        let compiler = compile_after.and_then(|_| Compiler::new(&cpu));
        let code = CodeCache::new(compiler, compile_after.unwrap_or(1));
        Self { cpu, code, here: Here::NOWHERE, owed: Owed::Nothing, replay: false, ceded: false, waiting: Waiting::default() }
    }

    /// Forgets what belonged to the previous execution: the registers were set from outside.
    pub(crate) fn restart(&mut self) {
        self.cpu.storage.forget_served();
        self.here = Here::NOWHERE;
        self.replay = false;
        self.ceded = false;
        self.owed = Owed::Nothing;
        self.cpu.check_at = 0;
    }

    /// A load from the machine's devices was served.
    pub(crate) fn complete_load(&mut self, ra: u64, size: u8, value: u64) {
        self.cpu.storage.serve(ra, size, Some(value));
        self.replay = true;
    }

    /// Executes until something leaves.
    pub(crate) fn run(&mut self) -> Exit {
        let (id, shared) = (self.cpu.id, std::sync::Arc::clone(&self.cpu.shared));
        shared.enter_guest(id);
        shared.yielded(id, true);
        self.cpu.check_at = 0;
        let exit = self.run_inside();
        shared.yielded(id, false);
        shared.publish_instructions(id, self.cpu.instructions);
        shared.leave_guest(id);
        exit
    }

    fn run_inside(&mut self) -> Exit {
        // Whoever has the CPU may have put another in its place.
        if !self.code.is_of(&self.cpu) {
            self.forget_code();
            self.code.compile_no_more();
        }
        loop {
            if self.ceded
                && let Some(exit) = self.sleep()
            {
                return exit;
            }
            if let Some(exit) = self.check() {
                return exit;
            }
            let stopped = if self.replay || self.steps() {
                self.step()
            } else {
                let mode = self.mode();
                match hot::run(&mut self.cpu, &self.code, &mut self.here, mode) {
                    Ok(Pause::Boundary) => Ok(()),
                    Ok(Pause::Miss) => self.decode_here(mode),
                    Ok(Pause::Hot) if self.code.is_full() => {
                        self.forget_code();
                        Ok(())
                    }
                    Ok(Pause::Hot) => {
                        self.code.compile(self.here.code, self.cpu.st.pc % PAGE_SIZE);
                        Ok(())
                    }
                    Err(stop) => Err(stop),
                }
            };
            if let Err(stop) = stopped
                && let Some(exit) = self.stopped(stop)
            {
                return exit;
            }
        }
    }

    fn mode(&self) -> u32 {
        let sixty_four = if self.cpu.st.msr & msr::SF != 0 { MODE_64 } else { 0 };
        let little = if self.cpu.st.msr & msr::LE != 0 { MODE_LE } else { 0 };
        sixty_four | little
    }

    /// True when instructions are executed one by one: single-step or branch trace, a completed-instruction breakpoint, a trace, or counting by
    /// instruction.
    fn steps(&self) -> bool {
        self.cpu.st.msr & (msr::SE | msr::BE) != 0
            || self.cpu.spr[sprn::CIABR] & 3 != 0
            || self.cpu.trace.as_ref().is_some_and(|trace| trace.instructions())
            || self.cpu.coverage.is_some()
    }

    // ---- between blocks ---------------------------------------------------------------------------------------------------

    /// Looks at everything that can interrupt the flow.
    fn check(&mut self) -> Option<Exit> {
        let id = self.cpu.id;
        let shared = std::sync::Arc::clone(&self.cpu.shared);
        let wanted = shared.attention(id);
        let epoch = shared.ram.code().epoch();
        if epoch != self.cpu.epoch {
            self.cpu.epoch = epoch;
            self.collect_stale();
        }
        if wanted & attention::MAIL != 0 {
            self.take_mail();
        }
        // A device access was served: its instruction comes before anything else.
        if self.replay {
            return None;
        }
        if shared.budget.is_some_and(|budget| self.cpu.instructions + self.cpu.interrupts >= budget) {
            return Some(Exit::Budget);
        }
        if self.cpu.instructions >= self.cpu.check_at {
            self.look_at_clock();
            if shared.vcpu_count() > 1 {
                self.step_back();
            }
        }
        if wanted & attention::KICK != 0 && shared.clear(id, attention::KICK) {
            return Some(Exit::Kicked);
        }
        if wanted & attention::NOTICE != 0 {
            shared.clear(id, attention::NOTICE);
        }
        if wanted & attention::DOORBELL != 0 {
            self.cpu.doorbell |= shared.clear(id, attention::DOORBELL);
        }
        // H_PROD to a vCPU that has not ceded stays: its next H_CEDE returns at once.
        let pending = if wanted & attention::RESET != 0 && shared.clear(id, attention::RESET) {
            Some(Interrupt::SystemReset)
        } else if wanted & attention::MACHINE_CHECK != 0
            && self.cpu.st.msr & msr::ME != 0
            && shared.clear(id, attention::MACHINE_CHECK)
        {
            Some(Interrupt::MachineCheck { srr1: 0 })
        } else if std::mem::take(&mut self.cpu.float_pending) && self.cpu.st.msr & (msr::FE0 | msr::FE1) != 0 {
            Some(Interrupt::Program(program::FLOATING_POINT | program::AFTER))
        } else {
            self.cpu.pending_interrupt()
        };
        if let Some(interrupt) = pending {
            self.cpu.npc = self.cpu.st.pc;
            self.cpu.interrupt(interrupt);
            // The page is looked up anew: the same address may lead elsewhere now.
            self.cpu.mode_changed = false;
            self.here = Here::NOWHERE;
        }
        None
    }

    /// Notes whether DEC is negative and when to look again.
    fn look_at_clock(&mut self) {
        let cpu = &mut self.cpu;
        cpu.shared.publish_instructions(cpu.id, cpu.instructions);
        let remaining = i64::from(cpu.dec() as i32);
        cpu.dec_seen = remaining < 0;
        let interval = if !cpu.shared.clock.is_deterministic() {
            CHECK_INTERVAL
        } else if remaining < 0 {
            // Nothing to wait for; but a negative DEC wraps in the end.
            u64::from(u32::MAX >> 1)
        } else {
            // The exception exists from the tick after zero.
            Clock::instructions_for(remaining as u64 + 1)
        };
        let next = cpu.instructions.saturating_add(interval.max(1));
        cpu.check_at = cpu.shared.budget.map_or(next, |budget| next.min(budget.saturating_sub(cpu.interrupts)));
    }

    /// Gives the host's processor away for a moment if the guest waits in a loop.
    fn step_back(&mut self) {
        let hinted = std::mem::take(&mut self.cpu.spun);
        match self.waiting.judge(&self.cpu.st, hinted) {
            Step::None => {}
            Step::Yield => std::thread::yield_now(),
            Step::Sleep(limit) => {
                let (id, shared) = (self.cpu.id, std::sync::Arc::clone(&self.cpu.shared));
                shared.leave_guest(id);
                shared.sleep(id, self.cpu.heeded & !attention::MAIL, limit);
                shared.enter_guest(id);
                self.take_mail();
            }
        }
    }

    /// H_CEDE: sleeps until an interrupt, H_PROD, or a kick.
    fn sleep(&mut self) -> Option<Exit> {
        const WAKES: u32 = attention::KICK
            | attention::EXTERNAL
            | attention::NOTICE
            | attention::DOORBELL
            | attention::PROD
            | attention::RESET
            | attention::MACHINE_CHECK;
        let id = self.cpu.id;
        let shared = std::sync::Arc::clone(&self.cpu.shared);
        loop {
            if shared.clear(id, attention::KICK) {
                return Some(Exit::Kicked);
            }
            shared.clear(id, attention::NOTICE);
            self.cpu.doorbell |= shared.clear(id, attention::DOORBELL);
            self.look_at_clock();
            let prodded = shared.clear(id, attention::PROD);
            let reset = shared.attention(id) & (attention::RESET | attention::MACHINE_CHECK) != 0;
            if prodded || reset || self.cpu.pending_interrupt().is_some() {
                self.ceded = false;
                return None;
            }
            let ticks = u64::from(self.cpu.dec()) + 1;
            if shared.clock.is_deterministic() {
                self.cpu.tb_skipped = self.cpu.tb_skipped.wrapping_add(ticks);
                continue;
            }
            shared.yielded(id, false);
            shared.leave_guest(id);
            shared.sleep(id, WAKES, Clock::duration_of(ticks).min(LONGEST_SLEEP));
            shared.enter_guest(id);
            self.take_mail();
            shared.yielded(id, true);
        }
    }

    // ---- keeping caches true ----------------------------------------------------------------------------------------------

    fn take_mail(&mut self) {
        take_mail(&mut self.cpu, &mut self.code);
    }

    /// Drops code whose page was written. Others are told before the page's mark goes, so that whoever finds the mark gone finds
    /// the message.
    fn collect_stale(&mut self) {
        let shared = std::sync::Arc::clone(&self.cpu.shared);
        let mut stale: Vec<u64> = self.code.real_pages().filter(|page| shared.ram.code().is_stale(*page)).collect();
        stale.dedup();
        for page in stale {
            shared.post(self.cpu.id, Forget::Code(page));
            self.code.forget(page);
            shared.ram.code().take_stale(page);
        }
        self.take_mail();
    }

    // ---- decoding ---------------------------------------------------------------------------------------------------------

    /// Forgets all code. The fetch translations go with it: they name its pages, also by address.
    fn forget_code(&mut self) {
        self.cpu.storage.forget_fetches();
        self.code.clear();
        self.here = Here::NOWHERE;
    }

    /// Makes the block at PC.
    fn decode_here(&mut self, mode: u32) -> Result<(), Stop> {
        let pc = self.cpu.st.pc;
        self.cpu.npc = pc;
        let translation = self.cpu.storage.translate_fetch(pc)?;
        if self.code.is_full() {
            self.forget_code();
        }
        let page = translation.ra >> PAGE_SHIFT;
        let number = self.code.page(page, mode);
        self.cpu.storage.remember_fetch(pc, mode, &translation, self.code.page_code(number));
        if self.code.block(number, pc % PAGE_SIZE).is_some() {
            return Ok(());
        }
        let shared = std::sync::Arc::clone(&self.cpu.shared);
        let pages = shared.ram.code();
        if pages.is_stale(page) {
            shared.post(self.cpu.id, Forget::Code(page));
            self.code.forget(page);
            pages.take_stale(page);
        }
        // Again after the wait: mail that came meanwhile may have been this page's, written and its mark taken. What comes after the
        // last look is found at the next block boundary.
        while pages.mark_code(page) {
            spread(&mut self.cpu, &mut self.code, &[Forget::StoresTo(page)]);
        }
        let mut uops = [Uop::Nop; MAX_BLOCK];
        let mut count = 0;
        let mut side_exits = 0;
        let mut ra = translation.ra & !3;
        while count < MAX_BLOCK && ra >> PAGE_SHIFT == page {
            let insn = self.word_at(ra);
            let (uop, ends) = translate(insn, decode(insn), mode, shared.newest);
            uops[count] = uop;
            count += 1;
            ra += 4;
            if may_fall_through(uop) && side_exits < MAX_SIDE_EXITS {
                side_exits += 1;
            } else if ends {
                break;
            }
        }
        let copying = match copying::mark(&mut uops[..count]) {
            0 if pc.is_multiple_of(PAGE_SIZE) => copying::mark_across(&mut uops[..count]),
            copying => copying,
        };
        fuse(&mut uops[copying..count]);
        self.code.insert(number, pc % PAGE_SIZE, &uops[..count]);
        Ok(())
    }

    fn word_at(&self, ra: u64) -> Insn {
        let word = self.cpu.storage.ram().load::<4>(ra) as u32;
        Insn(if self.cpu.st.msr & msr::LE != 0 { word } else { word.swap_bytes() })
    }

    // ---- one instruction --------------------------------------------------------------------------------------------------

    /// Executes one instruction by its plain semantics, with the trace interrupt after it if asked for (III 6.5.15).
    fn step(&mut self) -> Result<(), Stop> {
        let pc = self.cpu.st.pc;
        self.cpu.npc = pc;
        let translation = self.cpu.storage.translate_fetch(pc)?;
        let insn = self.word_at(translation.ra & !3);
        self.cpu.npc = self.cpu.truncate(pc.wrapping_add(4));
        let (before, breakpoint) = (self.cpu.st.msr, self.breakpoint_at(pc));
        if let Some(trace) = &mut self.cpu.trace {
            let at = Place { pc, msr: self.cpu.st.msr, instructions: self.cpu.instructions };
            trace.instruction(at, insn);
        }
        let newest = self.cpu.shared.newest;
        let op = decode(insn).filter(|op| op.row().level <= newest || !self.cpu.problem_state()).ok_or_else(program::illegal)?;
        self.cpu.storage.rewind_served();
        let done = execute(&mut self.cpu, op, insn);
        if let Some(coverage) = &self.cpu.coverage
            && matches!(
                done,
                Ok(()) | Err(Stop::Hypercall | Stop::Interrupt(Interrupt::SystemCall | Interrupt::SystemCallVectored(_)))
            )
        {
            coverage.count(op);
        }
        done?;
        self.replay = false;
        self.cpu.storage.forget_served();
        self.cpu.instructions += 1;
        self.cpu.st.pc = self.cpu.npc;
        self.cpu.mode_changed = false;
        self.here = Here::NOWHERE;
        // rfid and its kin are not traced.
        let returns = matches!(op, Op::System(crate::table::SystemOp::Rfid | crate::table::SystemOp::Rfscv));
        let branch_traced = before & msr::BE != 0 && matches!(op, Op::Branch(_));
        if !returns && (before & msr::SE != 0 || branch_traced || breakpoint) {
            return Err(Stop::Interrupt(Interrupt::Trace));
        }
        Ok(())
    }

    /// The completed-instruction address breakpoint (III 9.3).
    fn breakpoint_at(&self, pc: u64) -> bool {
        let ciabr = self.cpu.spr[sprn::CIABR];
        let state = if self.cpu.problem_state() { 1 } else { 2 };
        ciabr & 3 == state && ciabr & !3 == pc & !3
    }

    // ---- stops ------------------------------------------------------------------------------------------------------------

    /// Turns a stop into an interrupt, a served hypercall, or an exit.
    fn stopped(&mut self, stop: Stop) -> Option<Exit> {
        let cpu = &mut self.cpu;
        let interrupt = match stop {
            Stop::Hypercall => return self.hypercall(),
            Stop::Unimplemented => {
                return Some(Exit::Failed { reason: format!("instruction without semantics\n{}", self.dump()) });
            }
            Stop::Fault(Fault::Mmio { ra, size, store, little_endian }) => {
                return Some(self.device_access(ra, size, store, little_endian));
            }
            Stop::Interrupt(interrupt) => {
                // The system call is complete; the others are not.
                if matches!(interrupt, Interrupt::SystemCall | Interrupt::SystemCallVectored(_)) {
                    cpu.instructions += 1;
                }
                interrupt
            }
            Stop::Fault(Fault::DataStorage { dsisr, ea }) => Interrupt::DataStorage { dsisr, dar: ea },
            Stop::Fault(Fault::DataSegment { ea }) => Interrupt::DataSegment { dar: ea },
            Stop::Fault(Fault::InstructionStorage { srr1 }) => Interrupt::InstructionStorage { srr1 },
            Stop::Fault(Fault::InstructionSegment) => Interrupt::InstructionSegment,
            Stop::Fault(Fault::Alignment { ea }) => Interrupt::Alignment { dar: ea },
        };
        cpu.storage.forget_served();
        self.replay = false;
        cpu.interrupt(interrupt);
        cpu.mode_changed = false;
        self.here = Here::NOWHERE;
        None
    }

    fn device_access(&mut self, ra: u64, size: u8, store: Option<u64>, little_endian: bool) -> Exit {
        let Some(value) = store else {
            self.owed = Owed::Load { ra, size, little_endian };
            return Exit::MmioRead { addr: ra, len: size };
        };
        // Already complete for the machine; here the instruction is executed again and finds it done.
        self.cpu.storage.serve(ra, size, None);
        self.replay = true;
        let mut data = [0; 8];
        let bytes = value.to_le_bytes();
        let len = usize::from(size).min(8);
        for (i, byte) in bytes[..len].iter().enumerate() {
            data[if little_endian { i } else { len - 1 - i }] = *byte;
        }
        Exit::MmioWrite { addr: ra, len: size, data }
    }

    fn hypercall(&mut self) -> Option<Exit> {
        let cpu = &mut self.cpu;
        cpu.st.pc = cpu.npc;
        cpu.instructions += 1;
        let (nr, args) = hypercall_args(&cpu.st);
        if let Some(trace) = &mut cpu.trace {
            let at = Place { pc: cpu.st.pc.wrapping_sub(4), msr: cpu.st.msr, instructions: cpu.instructions };
            trace.hypercall(at, nr, &args);
        }
        let code = &mut self.code;
        match hcall::serve(cpu, nr, &args, |cpu, list| spread(cpu, code, list)) {
            Outcome::Done => {
                cpu.shared.count_hypercall(cpu.id);
                if let Some(trace) = &mut cpu.trace {
                    trace.reply(cpu.st.gpr[3]);
                }
                None
            }
            Outcome::Cede => {
                cpu.shared.count_hypercall(cpu.id);
                cpu.shared.count_cede(cpu.id);
                if let Some(trace) = &mut cpu.trace {
                    trace.reply(cpu.st.gpr[3]);
                }
                self.ceded = true;
                None
            }
            Outcome::Leave => {
                self.owed = Owed::Hypercall;
                Some(Exit::Hypercall { nr, args })
            }
        }
    }

    /// The registers and the way of the current addresses through the MMU, for the person who reads a failure.
    pub(crate) fn dump(&self) -> String {
        dump::dump(&self.cpu)
    }
}

/// Acts on what other vCPUs posted.
fn take_mail(cpu: &mut Cpu, code: &mut CodeCache) {
    let shared = std::sync::Arc::clone(&cpu.shared);
    let (mail, number) = shared.take_mail(cpu.id);
    for what in mail {
        apply(cpu, code, what);
    }
    shared.mail_done(cpu.id, number);
}

fn apply(cpu: &mut Cpu, code: &mut CodeCache, what: Forget) {
    match what {
        Forget::Ptex(ptex) => cpu.storage.forget_ptex(ptex),
        Forget::StoresTo(page) => cpu.storage.forget_stores_to(page),
        Forget::Code(page) => code.forget(page),
        Forget::All => {
            cpu.storage.forget_all();
            code.clear();
        }
    }
    cpu.shared.holds_no_more(cpu.id, what);
}

/// Makes every vCPU of the partition forget something, and waits until they have.
fn spread(cpu: &mut Cpu, code: &mut CodeCache, list: &[Forget]) {
    let shared = std::sync::Arc::clone(&cpu.shared);
    let mut any = false;
    for what in list {
        apply(cpu, code, *what);
        any |= shared.post(cpu.id, *what);
    }
    if !any {
        return;
    }
    // Every vCPU in the guest comes to a block boundary within microseconds, or is descheduled by the host: no bound but that.
    // One that runs answers while this one spins; one that is descheduled needs a core. A short sleep gives it this one and, unlike
    // a yield, does not send the waiter to the end of a loaded host's queue.
    let mut turns = 0u32;
    while !shared.all_taken(cpu.id) {
        take_mail(cpu, code);
        turns = turns.saturating_add(1);
        if turns < SPINS_BEFORE_SLEEP { std::hint::spin_loop() } else { std::thread::sleep(ACKNOWLEDGE_INTERVAL) }
    }
}
