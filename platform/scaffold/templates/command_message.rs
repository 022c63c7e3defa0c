/// Give a note back, with the caller and the time.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub struct SomeFunction {
    /// An example; its shape is checked before the handler sees it.
    #[garde(length(chars, min = 1, max = 200))]
    pub note: String,
}

impl Message for SomeFunction {
    const DOMAIN: &'static str = "somedomain";
    const FUNCTION: &'static str = "some-function";
    type Reply = SomeReply;
}

impl Command for SomeFunction {}

/// The answer to [`SomeFunction`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SomeReply {
    /// As it was given.
    pub note: String,
    /// Who asked, if they were logged in.
    pub caller: Option<UserId>,
    /// When the stream stored the command.
    pub at: Timestamp,
}
