#![no_main]

#[path = "../metered.rs"]
mod metered;

libfuzzer_sys::fuzz_target!(|data: &[u8]| metered::run(metered::checks::phone, data));
