/// How many words does a text have?
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub struct SomeFunction {
    /// An example; its shape is checked before the handler sees it.
    #[garde(length(chars, max = 200))]
    pub text: String,
}

impl Message for SomeFunction {
    const DOMAIN: &'static str = "somedomain";
    const FUNCTION: &'static str = "some-function";
    type Reply = SomeReply;
}

impl Query for SomeFunction {}

/// The answer to [`SomeFunction`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SomeReply {
    /// How many.
    pub words: usize,
    /// When they were counted.
    pub at: Timestamp,
}
