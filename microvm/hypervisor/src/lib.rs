//! Paperboat.
