//! The API server as a source of [`objects`]: which server and as whom, and watches of the kinds that the asker
//! reads. Used by the control plane and by the node agent.
#![warn(missing_docs)]
