//! How far a long command has come: a bar on a terminal, a line now and then elsewhere. On standard error.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use crate::clock;

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    told_at: Instant,
}

impl Progress {
    /// `total` in whatever is counted; 0 where it isn't known.
    pub fn new(total: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = match total {
                0 => ProgressStyle::with_template("{spinner} {msg}"),
                _ => ProgressStyle::with_template("[{bar:30}] {percent:>3} % {msg} ({eta} left)"),
            };
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ");
            ProgressBar::new(total).with_style(style)
        });
        Self { bar, told_at: clock::monotonic() }
    }

    pub fn at(&mut self, position: u64, message: impl FnOnce() -> String) {
        match &self.bar {
            Some(bar) => {
                bar.set_position(position);
                bar.set_message(message());
            }
            None if self.told_at.elapsed() >= LINE_EVERY => {
                self.told_at = clock::monotonic();
                eprintln!("{}", message());
            }
            None => {}
        }
    }

    /// A line that stays, above the bar.
    pub fn tell(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    /// Takes the bar away.
    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
