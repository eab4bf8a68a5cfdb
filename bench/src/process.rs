//! What a process costs, read from `/proc`, and where a thread runs.
//!
//! CPU comes from `schedstat`, which counts nanoseconds; the clock ticks of `stat` are 10 ms.

use std::fs;
use std::io;
use std::process::{Command, Stdio};
use std::thread;

use serde::Serialize;

/// Memory of a process in KiB.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Memory {
    /// Resident.
    pub rss_kib: u64,
    /// Resident and private: a mapped store that has been read counts in `rss_kib` only.
    pub anonymous_kib: u64,
}

/// Nanoseconds on a CPU of all threads of `pid`, or of those whose name begins with `thread`.
pub fn cpu_ns(pid: u32, thread: Option<&str>) -> io::Result<u64> {
    let mut total = 0;
    let mut matched = false;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        // A thread may end between listing and reading: it is left out, as is its time.
        let Ok(name) = fs::read_to_string(task.join("comm")) else { continue };
        if thread.is_some_and(|thread| !name.starts_with(thread)) {
            continue;
        }
        let Ok(schedstat) = fs::read_to_string(task.join("schedstat")) else { continue };
        total += schedstat.split_ascii_whitespace().next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or_default();
        matched = true;
    }
    if !matched {
        let reason = format!("process {pid} has no thread called `{}`", thread.unwrap_or_default());
        return Err(io::Error::new(io::ErrorKind::NotFound, reason));
    }
    Ok(total)
}

/// The same of all processes of a process group, such as a server with the children that it has started.
pub fn group_cpu_ns(group: u32) -> io::Result<u64> {
    let mut total = 0;
    for process in fs::read_dir("/proc")? {
        let Some(pid) = process?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // Behind the name, which may hold anything, stand state, parent and group.
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        if rest.split_ascii_whitespace().nth(2) == Some(group.to_string().as_str()) {
            // It may have ended since.
            total += cpu_ns(pid, None).unwrap_or_default();
        }
    }
    Ok(total)
}

/// What a server has cost so far, in nanoseconds on a CPU: all threads of `pid`, and of the processes that it has started when it
/// leads a process group.
pub fn server_cpu_ns(pid: u32) -> io::Result<u64> {
    let own = cpu_ns(pid, None)?;
    Ok(group_cpu_ns(pid)?.max(own))
}

/// Nanoseconds on a CPU of that thread of `pid` whose name begins with `thread` and that may run on `core` alone: helpers of a
/// worker bear its name too, and are pinned to nothing.
pub fn pinned_cpu_ns(pid: u32, thread: &str, core: usize) -> io::Result<u64> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        let read = |file| fs::read_to_string(task.join(file)).unwrap_or_default();
        let status = read("status");
        let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        if read("comm").starts_with(thread) && allowed.is_some_and(|allowed| allowed.trim() == core.to_string()) {
            let on_cpu = read("schedstat").split_ascii_whitespace().next().and_then(|ns| ns.parse().ok());
            return on_cpu.ok_or_else(|| io::Error::other(format!("{} tells no time", task.display())));
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, format!("process {pid} has no thread `{thread}` on core {core} alone")))
}

/// Nanoseconds for which threads of `pid` could have run and waited for a core that others had.
pub fn waited_ns(pid: u32) -> io::Result<u64> {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may have ended since it was listed.
        let Ok(schedstat) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        total += schedstat.split_ascii_whitespace().nth(1).and_then(|ns| ns.parse::<u64>().ok()).unwrap_or_default();
    }
    Ok(total)
}

/// Has the kernel prefer this process, and those that it starts from now on, to what else runs on the machine. Only root may.
pub fn favour_ourselves() -> bool {
    let ours = std::process::id().to_string();
    let mut command = Command::new("renice");
    command.args(["-n", "-20", "-p", &ours]).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Memory of `pid` now.
pub fn memory(pid: u32) -> io::Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().next()?.parse().ok()
    };
    Ok(Memory { rss_kib: field("VmRSS:").unwrap_or_default(), anonymous_kib: field("RssAnon:").unwrap_or_default() })
}

/// Keeps the calling thread on `core`.
pub fn pin(core: usize) -> Result<(), String> {
    // Asked for first: `set_for_current` writes beyond its mask, and aborts, for a number from 1024 on.
    let allowed = core_affinity::get_core_ids().unwrap_or_default();
    let wanted = allowed.into_iter().find(|id| id.id == core);
    if wanted.is_some_and(core_affinity::set_for_current) {
        Ok(())
    } else {
        Err(format!("core {core} is not one this process may run on"))
    }
}

/// Carries `work` out on `core`. In a thread of its own, since children inherit the affinity of the thread that starts them.
pub fn on_core<T: Send>(core: usize, work: impl FnOnce() -> T + Send) -> Result<T, String> {
    thread::scope(|scope| {
        let working = scope.spawn(move || pin(core).map(|()| work()));
        working.join().unwrap_or_else(|_| Err("the work on that core panicked".to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::process::CommandExt;
    use std::time::{Duration, Instant};

    #[test]
    fn our_own_cost_is_read() {
        let pid = std::process::id();
        assert!(cpu_ns(pid, None).unwrap() > 0);
        assert!(server_cpu_ns(pid).unwrap() > 0 && server_cpu_ns(u32::MAX).is_err());
        assert!(memory(pid).unwrap().rss_kib > 0);
        assert!(cpu_ns(pid, Some("no such thread")).is_err());
        assert!(waited_ns(pid).is_ok() && waited_ns(u32::MAX).is_err());
    }

    #[test]
    fn the_cost_of_a_group_is_that_of_its_processes() {
        let mut command = Command::new("sh");
        let script =
            "sh -c 'i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo done; exec tail -f /dev/null' & wait";
        let mut child = command.args(["-c", script]).process_group(0).stdout(Stdio::piped()).spawn().unwrap();
        child.stdout.take().unwrap().read_exact(&mut [0; 5]).unwrap();
        let leader = cpu_ns(child.id(), None).unwrap();
        // The kernel adds up what a thread has used at its ticks and when it is put aside: until then the child may have cost nothing.
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut group = group_cpu_ns(child.id()).unwrap();
        while group <= leader && Instant::now() < deadline {
            group = group_cpu_ns(child.id()).unwrap();
        }
        let server = server_cpu_ns(child.id()).unwrap();
        Command::new("kill").args(["-KILL", "--", &format!("-{}", child.id())]).status().unwrap();
        child.wait().unwrap();
        assert!(group > leader && server >= group, "{group} {leader} {server}");
        assert_eq!(group_cpu_ns(u32::MAX).unwrap(), 0);
    }

    #[test]
    fn work_is_done_on_the_core_it_is_given() {
        let core = core_affinity::get_core_ids().unwrap()[0].id;
        let allowed = on_core(core, || core_affinity::get_core_ids().unwrap().len()).unwrap();
        assert_eq!(allowed, 1);
        let worked = on_core(core, || {
            let before = pinned_cpu_ns(std::process::id(), "", core)?;
            while pinned_cpu_ns(std::process::id(), "", core)? == before {}
            io::Result::Ok(before)
        });
        assert!(worked.unwrap().is_ok());
        assert!(pinned_cpu_ns(std::process::id(), "", 100_000).is_err());
        assert!(on_core(100_000, || ()).is_err());
    }

    #[test]
    fn an_impossible_core_is_an_error() {
        assert!(pin(100_000).is_err());
    }
}
