//! The programs that choose a socket of a group for a packet: classic BPF, run by the kernel for each packet that it receives.
//!
//! Invariants: an answer that is no socket's number ([`FLOW`]) leaves the choice to the kernel's hash of addresses and ports, and
//! that is what becomes of every packet that a program cannot judge; no load reaches past a packet's end, for it would end
//! the program with socket 0. There are no loops in this language: what is repeated is written out, as often as `limits` says,
//! and each program fits the 20 KiB (`net.core.optmem_max`) that older kernels grant one after translation.

use libc::{
    BPF_ABS, BPF_ADD, BPF_ALU, BPF_B, BPF_H, BPF_IMM, BPF_IND, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JGT, BPF_JMP, BPF_K,
    BPF_LD, BPF_LDX, BPF_LEN, BPF_MEM, BPF_MISC, BPF_MUL, BPF_OR, BPF_RET, BPF_RSH, BPF_ST, BPF_STX, BPF_SUB, BPF_TAX,
    BPF_TXA, BPF_W, BPF_X, BPF_XOR, SKF_AD_CPU, SKF_AD_OFF, sock_filter,
};

use crate::limits::{HEADER_BYTES, STEERING_LABELS_MAX, STEERING_WORDS_MAX, WORKERS_MAX};

/// No socket's number.
const FLOW: u32 = u32::MAX;
const _: () = assert!(WORKERS_MAX < 1 << 16, "the upper half of a hash, times the workers, fits 32 bits");

/// Where the name begins: right behind the header, for the packet is given to the program without its UDP header.
const NAME_AT: u32 = HEADER_BYTES as u32;
/// Sets the bit by which a lower-case letter differs from an upper-case one, in each octet of a word. Other octets that become
/// equal by it only make names share a worker.
const LOWER_CASE: u32 = 0x2020_2020;
/// Odd, so that multiplying loses nothing; with bits all over, so that each octet reaches the uppermost bits.
const MULTIPLIERS: [u32; 2] = [0x9e37_79b1, 0x85eb_ca6b];
/// `BPF_A`, returned: the accumulator (`libc` has it among the sources of `BPF_RET`).
const RETURN_ACCUMULATOR: u32 = libc::BPF_RET | libc::BPF_A;

/// Scratch words of [`by_name`].
const HASH: u32 = 0;
const NAME_END: u32 = 1;

/// The socket whose worker runs on the core that received the packet. Sockets are numbered in the order of `cores`. What other
/// cores receive goes by its flow.
pub fn by_cpu(cores: &[usize]) -> Vec<sock_filter> {
    let mut numbered: Vec<(u32, u32)> = (0..).zip(cores).map(|(socket, &core)| (core as u32, socket)).collect();
    numbered.sort_unstable();
    let mut runs: Vec<Run> = Vec::new();
    for (core, socket) in numbered {
        match runs.last_mut() {
            Some(run) if core == run.core + run.count && socket == run.socket + run.count => run.count += 1,
            _ => runs.push(Run { core, socket, count: 1 }),
        }
    }
    let mut assembly = Assembly::default();
    assembly.add(BPF_LD | BPF_W | BPF_ABS, (SKF_AD_OFF + SKF_AD_CPU) as u32);
    search(&mut assembly, &runs);
    assembly.finish()
}

/// Cores with rising numbers whose sockets' numbers rise with them.
struct Run {
    core: u32,
    socket: u32,
    count: u32,
}

/// Finds the run of the core in the accumulator, by halves, and returns its socket.
fn search(assembly: &mut Assembly, runs: &[Run]) {
    match runs {
        [] => assembly.add(BPF_RET | BPF_K, FLOW),
        [Run { core, socket, count: 1 }] => {
            assembly.go_unless(BPF_JEQ, *core, Place::Flow);
            assembly.add(BPF_RET | BPF_K, *socket);
        }
        [Run { core, socket, count }] => {
            assembly.go_unless(BPF_JGE, *core, Place::Flow);
            assembly.go_if(BPF_JGE, core + count, Place::Flow);
            assembly.add(BPF_ALU | BPF_SUB | BPF_K, *core);
            assembly.add(BPF_ALU | BPF_ADD | BPF_K, *socket);
            assembly.add(RETURN_ACCUMULATOR, 0);
        }
        _ => {
            let (lower, upper) = runs.split_at(runs.len() / 2);
            let upper_half = Place::Upper(assembly.instructions.len());
            assembly.go_if(BPF_JGE, upper.first().map_or(0, |run| run.core), upper_half);
            search(assembly, lower);
            assembly.here(upper_half);
            search(assembly, upper);
        }
    }
}

/// The socket that this name belongs to, whatever its letter case and the type that is asked for. `seed` is to be drawn at
/// each start: who does not know it cannot make up names that all go to one worker.
pub fn by_name(workers: usize, seed: u32) -> Vec<sock_filter> {
    let mut assembly = Assembly::default();
    find_end(&mut assembly);
    assembly.add(BPF_STX, NAME_END);
    assembly.add(BPF_MISC | BPF_TXA, 0);
    assembly.go_unless(BPF_JGE, NAME_AT + 4, Place::Short);
    // The hash of the words so far is in X.
    assembly.add(BPF_LDX | BPF_W | BPF_IMM, seed);
    for word in 0..STEERING_WORDS_MAX as u32 {
        let at = NAME_AT + 4 * word;
        assembly.add(BPF_LD | BPF_W | BPF_MEM, NAME_END);
        assembly.go_unless(BPF_JGE, at + 4, Place::Tail);
        assembly.add(BPF_LD | BPF_W | BPF_ABS, at);
        assembly.mix(LOWER_CASE);
        assembly.add(BPF_MISC | BPF_TAX, 0);
    }
    assembly.here(Place::Tail);
    // The last four octets, some of them a second time: nothing of a name is passed over unless it is longer than all words.
    assembly.add(BPF_STX, HASH);
    assembly.step_back(4);
    assembly.add(BPF_LD | BPF_W | BPF_IND, 0);
    assembly.add(BPF_LDX | BPF_W | BPF_MEM, HASH);
    assembly.mix(LOWER_CASE);
    assembly.go(Place::Finish);
    assembly.here(Place::Short);
    // The root, in the accumulator where it ends; else a label of one or two letters.
    assembly.add(BPF_LDX | BPF_W | BPF_IMM, seed);
    assembly.go_if(BPF_JEQ, NAME_AT, Place::Finish);
    assembly.add(BPF_LD | BPF_H | BPF_ABS, NAME_AT);
    assembly.mix(LOWER_CASE);
    assembly.add(BPF_ST, HASH);
    assembly.step_back(2);
    assembly.add(BPF_LD | BPF_H | BPF_IND, 0);
    assembly.add(BPF_LDX | BPF_W | BPF_MEM, HASH);
    assembly.mix(LOWER_CASE);
    assembly.here(Place::Finish);
    assembly.add(BPF_MISC | BPF_TAX, 0);
    assembly.add(BPF_ALU | BPF_RSH | BPF_K, 15);
    assembly.add(BPF_ALU | BPF_XOR | BPF_X, 0);
    assembly.add(BPF_ALU | BPF_MUL | BPF_K, MULTIPLIERS[1]);
    // The upper half of the hash, as a fraction of the workers.
    assembly.add(BPF_ALU | BPF_RSH | BPF_K, 16);
    assembly.add(BPF_ALU | BPF_MUL | BPF_K, workers as u32);
    assembly.add(BPF_ALU | BPF_RSH | BPF_K, 16);
    assembly.add(RETURN_ACCUMULATOR, 0);
    assembly.finish()
}

/// Puts into X where the name ends: the place of its root label, or that behind as many labels as are looked at. A question
/// that is not whole, or has no plain labels, goes by its flow.
fn find_end(assembly: &mut Assembly) {
    assembly.add(BPF_LDX | BPF_W | BPF_IMM, NAME_AT);
    for _ in 0..STEERING_LABELS_MAX {
        assembly.add(BPF_LD | BPF_W | BPF_LEN, 0);
        assembly.go_unless(BPF_JGT | BPF_X, 0, Place::Flow);
        assembly.add(BPF_LD | BPF_B | BPF_IND, 0);
        assembly.go_if(BPF_JEQ, 0, Place::End);
        assembly.go_if(BPF_JGT, 63, Place::Flow);
        assembly.add(BPF_ALU | BPF_ADD | BPF_X, 0);
        assembly.add(BPF_ALU | BPF_ADD | BPF_K, 1);
        assembly.add(BPF_MISC | BPF_TAX, 0);
    }
    assembly.here(Place::End);
    // Also after the last label that is looked at, which may say that it is longer than the packet.
    assembly.add(BPF_LD | BPF_W | BPF_LEN, 0);
    assembly.go_unless(BPF_JGE | BPF_X, 0, Place::Flow);
}

/// Where a program goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The kernel chooses.
    Flow,
    /// The end of the name is in X.
    End,
    /// All whole words have been hashed.
    Tail,
    /// A name of less than a word.
    Short,
    /// The hash is made an index of.
    Finish,
    /// The upper half of a search that was begun at this instruction.
    Upper(usize),
}

/// A program being written. It only ever jumps forwards.
#[derive(Default)]
struct Assembly {
    instructions: Vec<sock_filter>,
    /// Jumps whose length is not known yet.
    open: Vec<(usize, Place)>,
}

impl Assembly {
    fn add(&mut self, code: u32, value: u32) {
        self.instructions.push(sock_filter { code: code as u16, jt: 0, jf: 0, k: value });
    }

    /// A conditional jump reaches 255 instructions, so it only decides whether the next one, which reaches any, is passed over.
    fn branch(&mut self, test: u32, value: u32, place: Place, [jt, jf]: [u8; 2]) {
        self.instructions.push(sock_filter { code: (BPF_JMP | test) as u16, jt, jf, k: value });
        self.go(place);
    }

    fn go(&mut self, place: Place) {
        self.open.push((self.instructions.len(), place));
        self.add(BPF_JMP | BPF_JA, 0);
    }

    fn go_if(&mut self, test: u32, value: u32, place: Place) {
        self.branch(test, value, place, [0, 1]);
    }

    fn go_unless(&mut self, test: u32, value: u32, place: Place) {
        self.branch(test, value, place, [1, 0]);
    }

    /// Says that the next instruction is this place.
    fn here(&mut self, place: Place) {
        let here = self.instructions.len();
        for &(at, _) in self.open.iter().filter(|(_, open)| *open == place) {
            if let Some(jump) = self.instructions.get_mut(at) {
                jump.k = (here - at - 1) as u32;
            }
        }
        self.open.retain(|(_, open)| *open != place);
    }

    /// Takes the octets in the accumulator into the hash in X; the result is in the accumulator.
    fn mix(&mut self, lower_case: u32) {
        self.add(BPF_ALU | BPF_OR | BPF_K, lower_case);
        self.add(BPF_ALU | BPF_XOR | BPF_X, 0);
        self.add(BPF_ALU | BPF_MUL | BPF_K, MULTIPLIERS[0]);
    }

    /// Puts into X the place so many octets before the name's end.
    fn step_back(&mut self, octets: u32) {
        self.add(BPF_LD | BPF_W | BPF_MEM, NAME_END);
        self.add(BPF_ALU | BPF_SUB | BPF_K, octets);
        self.add(BPF_MISC | BPF_TAX, 0);
    }

    fn finish(mut self) -> Vec<sock_filter> {
        self.here(Place::Flow);
        self.add(BPF_RET | BPF_K, FLOW);
        debug_assert!(self.open.is_empty(), "jumps to nowhere: {:?}", self.open);
        self.instructions
    }
}

#[cfg(test)]
mod tests;
