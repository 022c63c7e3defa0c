//! What is said about somedomain.
