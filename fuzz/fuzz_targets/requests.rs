#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| es_index_merge::fuzzing::requests::requests(data));
