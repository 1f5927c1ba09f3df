//! The tokio runtime of a process, and the end of `main`.

use std::fmt::Display;
use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

/// Time that blocking work may take after the process has stopped serving.
const BLOCKING_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs a process to its end on `worker_threads` threads (0: one per core). Fewer threads than cores
/// make sense where several processes share a machine: each hand-over between threads costs more than
/// the small piece of work that it carries.
pub fn run<E: Display>(
    worker_threads: usize,
    process: impl Future<Output = Result<(), E>>,
) -> ExitCode {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if worker_threads > 0 {
        builder.worker_threads(worker_threads);
    }
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(process);
    runtime.shutdown_timeout(BLOCKING_TIMEOUT);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "stopped");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_tells_how_it_ended() {
        let code = |code: ExitCode| format!("{code:?}");
        assert_eq!(code(run(1, async { Ok::<(), &str>(()) })), code(ExitCode::SUCCESS));
        assert_eq!(code(run(0, async { Err("no") })), code(ExitCode::FAILURE));
    }
}
