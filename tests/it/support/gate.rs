//! Gate: stands before a service and passes connections on while it is open, so that a service can be away.

use std::io::copy;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

pub struct Gate {
    open: Arc<AtomicBool>,
    passing: Arc<Mutex<Vec<TcpStream>>>,
}

impl Gate {
    /// At an address of its own, which it gives.
    pub fn opened(behind: String) -> (Gate, String) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let front = listener.local_addr().expect("an address").to_string();
        let gate = Gate::at(listener, behind);
        gate.open();
        (gate, front)
    }

    pub fn closed(front: &str, behind: String) -> Gate {
        Gate::at(TcpListener::bind(front).expect("the port is still free"), behind)
    }

    fn at(listener: TcpListener, behind: String) -> Gate {
        let gate = Gate { open: Arc::default(), passing: Arc::default() };
        let (open, passing) = (gate.open.clone(), gate.passing.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if !open.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(&behind) else { continue };
                let both = [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)];
                for (mut read, mut write) in both {
                    passing.lock().unwrap().push(read.try_clone().unwrap());
                    // Ends with the connection.
                    std::thread::spawn(move || copy(&mut read, &mut write));
                }
            }
        });
        gate
    }

    pub fn open(&self) {
        self.open.store(true, Ordering::SeqCst);
    }

    pub fn close(&self) {
        self.open.store(false, Ordering::SeqCst);
        for connection in self.passing.lock().unwrap().drain(..) {
            // It may have ended by itself.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}
