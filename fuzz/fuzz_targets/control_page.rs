#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vchan_fuzz_targets::control_page::run(data));
