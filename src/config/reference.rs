pub fn schema_json() -> String {
    String::new()
}
pub fn reference_markdown() -> String {
    String::new()
}
