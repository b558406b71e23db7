//! The world behind the events: users who differ in how readily they click and what they like, items that differ in
//! how good they are, and the chance of a click that follows from both and from the place in the slate.

use crate::cli::generate::random::{Popularity, Random};

pub(super) struct World {
    users: Vec<User>,
    items: Vec<Item>,
    user_popularity: Popularity,
    item_popularity: Popularity,
}

struct User {
    eagerness: f64,
    liked: u8,
    device: u8,
}

struct Item {
    quality: f64,
    category: u8,
    price_cents: u32,
}

const CATEGORIES: u64 = 8;
pub(super) const DEVICES: [&str; 4] = ["ios", "android", "web", "tablet"];

impl World {
    pub fn new(users: u32, items: u32, random: &mut Random) -> Self {
        let user = |random: &mut Random| User {
            eagerness: random.normal(),
            liked: random.below(CATEGORIES) as u8,
            device: random.below(DEVICES.len() as u64) as u8,
        };
        let item = |random: &mut Random| Item {
            quality: random.normal(),
            category: random.below(CATEGORIES) as u8,
            price_cents: (2500.0 * (0.8 * random.normal()).exp()).clamp(99.0, 99_999.0) as u32,
        };
        World {
            users: (0..users).map(|_| user(random)).collect(),
            items: (0..items).map(|_| item(random)).collect(),
            user_popularity: Popularity::new(users as usize, 0.7),
            item_popularity: Popularity::new(items as usize, 0.9),
        }
    }

    pub fn draw_user(&self, random: &mut Random) -> u32 {
        self.user_popularity.draw(random) as u32
    }

    /// Fills `slate` with different items.
    pub fn draw_slate(&self, length: usize, slate: &mut Vec<u32>, random: &mut Random) {
        slate.clear();
        while slate.len() < length.min(self.items.len()) {
            let mut item = self.item_popularity.draw(random) as u32;
            while slate.contains(&item) {
                item = (item + 1) % self.items.len() as u32;
            }
            slate.push(item);
        }
    }

    /// Mostly the user's own device.
    pub fn device(&self, user: u32, random: &mut Random) -> &'static str {
        let own = self.users[user as usize].device as u64;
        let device = if random.chance(0.9) { own } else { random.below(DEVICES.len() as u64) };
        DEVICES[device as usize]
    }

    pub fn price_cents(&self, item: u32) -> u32 {
        self.items[item as usize].price_cents
    }

    pub fn click_probability(&self, user: u32, item: u32, place: usize) -> f64 {
        let (user, item) = (&self.users[user as usize], &self.items[item as usize]);
        let taste = if user.liked == item.category { 1.0 } else { 0.0 };
        logistic(-2.8 + 0.8 * user.eagerness + 1.1 * item.quality + taste - 0.22 * place as f64)
    }

    /// After a click.
    pub fn conversion_probability(&self, item: u32) -> f64 {
        let item = &self.items[item as usize];
        logistic(-1.9 + 0.5 * item.quality - 0.3 * (item.price_cents as f64 / 2500.0).ln())
    }
}

fn logistic(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}
