//! Resp: commands in the protocol of Redis, written one after another into one buffer, without a heap object each.

/// Commands in the server's protocol, one after another.
#[derive(Default)]
pub(super) struct Request {
    pub bytes: Vec<u8>,
    pub commands: usize,
}

impl Request {
    pub fn command(&mut self, args: usize) {
        self.commands += 1;
        self.header(b'*', args);
    }

    pub fn args(&mut self, args: &[&str]) {
        for arg in args {
            self.arg(arg.as_bytes());
        }
    }

    pub fn arg(&mut self, arg: &[u8]) {
        self.header(b'$', arg.len());
        self.bytes.extend_from_slice(arg);
        self.bytes.extend_from_slice(b"\r\n");
    }

    pub fn number(&mut self, number: i64) {
        let digits = number.to_string();
        self.arg(digits.as_bytes());
    }

    /// One argument in two parts; says where it lies.
    pub fn arg_parts(&mut self, first: &str, second: &str) -> std::ops::Range<usize> {
        self.header(b'$', first.len() + second.len());
        let start = self.bytes.len();
        self.bytes.extend_from_slice(first.as_bytes());
        self.bytes.extend_from_slice(second.as_bytes());
        let end = self.bytes.len();
        self.bytes.extend_from_slice(b"\r\n");
        start..end
    }

    fn header(&mut self, mark: u8, mut number: usize) {
        let mut digits = [0u8; 20];
        let mut first = digits.len();
        loop {
            first -= 1;
            digits[first] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.bytes.push(mark);
        self.bytes.extend_from_slice(&digits[first..]);
        self.bytes.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_encoded_as_the_protocol_says() {
        let mut request = Request::default();
        request.command(3);
        request.args(&["HGET"]);
        request.arg_parts("ctr:item:", "i1");
        request.number(-12);
        assert_eq!(request.bytes, b"*3\r\n$4\r\nHGET\r\n$11\r\nctr:item:i1\r\n$3\r\n-12\r\n");
    }
}
