//! Which processor a thread runs on.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::Failure;

/// Where the two ends of a measurement run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement {
    /// Each on a processor of its own.
    Across,
    /// Both on one.
    OneCpu,
    /// Wherever the system puts them.
    Anywhere,
}

impl Placement {
    /// As it is named in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Placement::Across => "across CPUs",
            Placement::OneCpu => "on one CPU",
            Placement::Anywhere => "anywhere",
        }
    }

    /// The processors of the two ends, `None` where the system chooses.
    ///
    /// # Errors
    /// [`Failure::Missing`] when there is only one.
    pub fn cpus(self) -> Result<[Option<usize>; 2], Failure> {
        let mut usable = usable()?.into_iter();
        match (self, usable.next(), usable.next()) {
            (Placement::Anywhere, ..) => Ok([None, None]),
            (Placement::OneCpu, first @ Some(_), _) => Ok([first, first]),
            (Placement::Across, first @ Some(_), second @ Some(_)) => Ok([first, second]),
            _ => Err(Failure::Missing("it has one processor".to_owned())),
        }
    }
}

/// The processors that this thread may run on.
///
/// # Errors
/// When the system does not tell.
pub fn usable() -> Result<Vec<usize>, Failure> {
    let set = sched_getaffinity(None).map_err(std::io::Error::from)?;
    Ok((0..CpuSet::MAX_CPU)
        .filter(|&cpu| set.is_set(cpu))
        .collect())
}

/// Keeps the calling thread on `cpu` from now on, if one is named.
///
/// # Errors
/// When it may not run there.
pub fn pin(cpu: Option<usize>) -> Result<(), Failure> {
    if let Some(cpu) = cpu {
        let mut set = CpuSet::new();
        set.set(cpu);
        sched_setaffinity(None, &set).map_err(std::io::Error::from)?;
    }
    Ok(())
}
