//! A check under a memory meter: what it holds at once is bounded by the length of its input.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

#[path = "checks.rs"]
pub mod checks;

/// Whatever the input: tables and compiled patterns that are made once, the texts that are told.
const BYTES_ONCE: usize = 24 << 20;
/// For each byte of the input: a JSON list of zeroes takes 32 bytes an element of two, twice while it grows, and a check
/// holds a copy or two of what it compares.
const BYTES_A_BYTE: usize = 160;

struct Meter;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static METER: Meter = Meter;

// SAFETY: every call is handed to the system's allocator as it is; the meter only counts.
unsafe impl GlobalAlloc for Meter {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(held, Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(at, layout) }
    }
}

pub fn run(check: fn(&[u8]), data: &[u8]) {
    let before = HELD.load(Relaxed);
    PEAK.store(before, Relaxed);
    check(data);
    let taken = PEAK.load(Relaxed).saturating_sub(before);
    let allowed = BYTES_ONCE + BYTES_A_BYTE * data.len();
    assert!(taken <= allowed, "{taken} bytes held at once for an input of {}", data.len());
}
