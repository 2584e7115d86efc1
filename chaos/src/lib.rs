//! Merges under faults: real servers that may be killed, proxies that spoil what passes, and the program itself as
//! processes that may be killed, paused and started again. `make chaos` and `tests/faults` are built from it.
//!
//! Nothing here uses the operator's code: the program is run as a user runs it, and the verdict is the independent
//! checker's ([`demo::checker`]). Everything that is started ends with the process that started it, however that dies.

pub mod merge;
pub mod parts;
pub mod program;
