//! ctrl-c and SIGTERM: the first asks for an orderly end, the second ends at once.

use std::sync::{Arc, atomic::AtomicBool};

use anyhow::{Context as _, Result};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};

/// A flag that turns true when the process is asked to stop. SIGUSR1 is what Slurm sends before its limit.
pub(crate) fn stop_flag() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // registered first: with the flag already up, the second signal ends the process
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))
            .context("cannot listen for signals")?;
    }
    for signal in [SIGINT, SIGTERM, SIGUSR1] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("cannot listen for signals")?;
    }
    Ok(stop)
}
