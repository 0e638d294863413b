//! ztunnel: carries every opted-in pod's TCP over HBONE. `main` starts `app`; the data path is `worker` and `route`.

pub mod route;
pub mod worker;
