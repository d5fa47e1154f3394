//! Instructions, fences and locked instructions of a pair of messages, counted by valgrind.
//!
//! This program runs itself under callgrind, once for N pairs and once for 3 N: the difference has
//! no set-up in it. Only the part that the clock would see is counted. The listing of the binary by
//! objdump says which of the instructions that were executed are fences and which are locked.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// What one message costs on average, sent and received.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct Cost {
    /// Instructions.
    pub instructions: f64,
    /// Instructions that order all memory accesses before with all after: `mfence`, and `lock or` on
    /// the stack, which compilers use instead.
    pub fences: f64,
    /// Other instructions that lock a cache line: `lock …`, and `xchg` with memory.
    pub locked: f64,
}

/// The fewer pairs. A multiple of what is moved between two looks at the clock.
const PAIRS: u64 = 2048;

/// Counts `program pairs SUBJECT SIZE BATCH COUNT`.
pub fn count(program: &Path, subject: &str, size: usize, batch: usize) -> Result<Cost> {
    let kinds = kinds(program)?;
    let few = run(program, &kinds, subject, size, batch, PAIRS)?;
    let many = run(program, &kinds, subject, size, batch, 3 * PAIRS)?;
    let each = |few: u64, many: u64| (many as f64 - few as f64) / (2 * PAIRS) as f64;
    Ok(Cost {
        instructions: each(few[0], many[0]),
        fences: each(few[1], many[1]),
        locked: each(few[2], many[2]),
    })
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Fence,
    Locked,
}

/// Instructions, fences and locked instructions of one run.
fn run(
    program: &Path,
    kinds: &HashMap<u64, Kind>,
    subject: &str,
    size: usize,
    batch: usize,
    count: u64,
) -> Result<[u64; 3]> {
    let name = format!(
        "callgrind-{}-{subject}-{size}-{batch}-{count}",
        std::process::id()
    );
    let out = Scratch(std::env::temp_dir().join(name));
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args([
            "--tool=callgrind",
            "--dump-instr=yes",
            "--collect-atstart=no",
        ])
        .args(["--compress-pos=no", "--compress-strings=no"])
        .arg("--toggle-collect=*vchan_bench*workload*timed*")
        .arg(format!("--callgrind-out-file={}", out.0.display()))
        .arg(program)
        .args(["pairs", subject])
        .args([size.to_string(), batch.to_string(), count.to_string()]);
    let output = valgrind
        .output()
        .context("valgrind cannot be run; it comes with the package of this name")?;
    if !output.status.success() {
        bail!(
            "{valgrind:?} failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let profile = std::fs::read_to_string(&out.0)?;
    let counted = parse(&profile, program, kinds)?;
    if counted[0] == 0 {
        bail!("callgrind has seen nothing of what was to be counted");
    }
    Ok(counted)
}

struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Sums up a profile with positions `instr line`. The line after `calls=` is the cost of the callee
/// as seen by the caller, which is counted where it arose.
fn parse(profile: &str, program: &Path, kinds: &HashMap<u64, Kind>) -> Result<[u64; 3]> {
    let mut sums = [0; 3];
    let (mut ours, mut skip) = (false, false);
    for line in profile.lines() {
        if let Some(object) = line.strip_prefix("ob=") {
            ours = Path::new(object).file_name() == program.file_name();
        } else if line.starts_with("calls=") {
            skip = true;
        } else if let Some(rest) = line.strip_prefix("0x") {
            if std::mem::take(&mut skip) {
                continue;
            }
            let mut words = rest.split(' ');
            let address = words
                .next()
                .and_then(|word| u64::from_str_radix(word, 16).ok());
            let cost: Option<u64> = words.nth(1).and_then(|word| word.parse().ok());
            let (Some(address), Some(cost)) = (address, cost) else {
                bail!("callgrind wrote what is not understood: {line}");
            };
            sums[0] += cost;
            match kinds.get(&address).filter(|_| ours) {
                Some(Kind::Fence) => sums[1] += cost,
                Some(Kind::Locked) => sums[2] += cost,
                None => {}
            }
        }
    }
    Ok(sums)
}

/// The fences and locked instructions of a program, by their addresses in it.
fn kinds(program: &Path) -> Result<HashMap<u64, Kind>> {
    let mut objdump = Command::new("objdump");
    objdump
        .args(["-d", "--no-show-raw-insn", "-M", "intel"])
        .arg(program);
    let output = objdump
        .output()
        .context("objdump cannot be run; it comes with the package binutils")?;
    if !output.status.success() {
        bail!(
            "{objdump:?} failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let listing = String::from_utf8_lossy(&output.stdout);
    let found: HashMap<u64, Kind> = listing.lines().filter_map(instruction).collect();
    if found.is_empty() {
        bail!("objdump shows no fence and no locked instruction at all");
    }
    Ok(found)
}

/// `  123ab:\tlock cmpxchg …`
fn instruction(line: &str) -> Option<(u64, Kind)> {
    let (address, text) = line.trim_start().split_once(":\t")?;
    let address = u64::from_str_radix(address, 16).ok()?;
    let text = text.trim();
    let on_stack = text.starts_with("lock or") && text.contains("[rsp");
    let kind = if text.starts_with("mfence") || on_stack {
        Kind::Fence
    } else if text.starts_with("lock ") || (text.starts_with("xchg") && text.contains('[')) {
        Kind::Locked
    } else {
        return None;
    };
    Some((address, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fences_and_locked_instructions_are_told_from_others() {
        let kind = |line| instruction(line).map(|(_, kind)| kind);
        assert_eq!(kind("   1234:\tmfence"), Some(Kind::Fence));
        assert_eq!(
            kind("   1234:\tlock or DWORD PTR [rsp-0x40],0x0"),
            Some(Kind::Fence)
        );
        assert_eq!(
            kind("   1234:\tlock or BYTE PTR [rax+0x17],cl"),
            Some(Kind::Locked)
        );
        assert_eq!(
            kind("   1234:\txchg   QWORD PTR [rdi],rax"),
            Some(Kind::Locked)
        );
        assert_eq!(kind("   1234:\txchg   ax,ax"), None);
        assert_eq!(kind("   1234:\tmov    rax,rbx"), None);
        assert_eq!(instruction("  ff0:\tmfence").unwrap().0, 0xff0);
    }

    #[test]
    fn what_a_call_cost_is_counted_once() {
        let profile = "\
positions: instr line
events: Ir

ob=/bin/program
fn=outer
0x10 1 5
0x14 2 7
calls=1 0x30 9
0x18 2 100
ob=/lib/other
fn=inner
0x10 9 90
ob=/bin/program
fn=inner
0x20 9 10
";
        let kinds = HashMap::from([(0x10, Kind::Fence), (0x20, Kind::Locked)]);
        let sums = parse(profile, Path::new("/elsewhere/program"), &kinds).unwrap();
        assert_eq!(sums, [112, 5, 10]);
    }
}
