//! Deliveries of which completions are still due, and which the kernel may still read.
//!
//! A send that posts its completion is done with its bytes when the last one of it has come: of a
//! zero-copy send that is the notification, which may be as late as the peer's acknowledgement.
//! Whoever does not read holds the bytes as long as its socket's send buffer does, and no longer
//! than it is connected.

use std::{collections::VecDeque, rc::Rc};

/// The numbers of deliveries, which begin anew after the last.
pub const NUMBER_BITS: u32 = 24;
/// Their greatest.
pub const NUMBER_MASK: u32 = (1 << NUMBER_BITS) - 1;

/// The bytes of one delivery, as long as they are lent.
struct Delivery {
    bytes: Rc<Vec<u8>>,
    /// Sends that have not had their last completion.
    due: usize,
}

/// See the module.
#[derive(Default)]
pub struct Lent {
    /// The number of the first of them.
    first: u32,
    deliveries: VecDeque<Delivery>,
}

impl Lent {
    /// Keeps these bytes for one send more, and returns the number of the delivery.
    pub fn lend(&mut self, bytes: &Rc<Vec<u8>>) -> u32 {
        match self.deliveries.back_mut() {
            Some(delivery) if Rc::ptr_eq(&delivery.bytes, bytes) => delivery.due += 1,
            _ => self.deliveries.push_back(Delivery { bytes: Rc::clone(bytes), due: 1 }),
        }
        self.first.wrapping_add(self.deliveries.len() as u32 - 1) & NUMBER_MASK
    }

    /// How many bytes a send of this delivery has to take.
    pub fn length(&self, number: u32) -> usize {
        self.deliveries[self.index(number)].bytes.len()
    }

    /// A send of this delivery has had its last completion.
    pub fn give_back(&mut self, number: u32) {
        let index = self.index(number);
        self.deliveries[index].due -= 1;
        while self.deliveries.front().is_some_and(|delivery| delivery.due == 0) {
            self.deliveries.pop_front();
            self.first = self.first.wrapping_add(1);
        }
    }

    fn index(&self, number: u32) -> usize {
        (number.wrapping_sub(self.first) & NUMBER_MASK) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_kept_until_every_send_of_them_has_given_them_back() {
        let mut lent = Lent { first: NUMBER_MASK, ..Lent::default() };
        let (one, two) = (Rc::new(vec![1]), Rc::new(vec![2, 2]));
        let first = lent.lend(&one);
        assert_eq!(lent.lend(&one), first);
        let second = lent.lend(&two);
        assert_eq!((first, second), (NUMBER_MASK, 0));
        assert_eq!((lent.length(first), lent.length(second)), (1, 2));
        // The second is complete before the first, and waits for it.
        lent.give_back(second);
        lent.give_back(first);
        assert_eq!((Rc::strong_count(&one), Rc::strong_count(&two)), (2, 2));
        lent.give_back(first);
        assert_eq!((Rc::strong_count(&one), Rc::strong_count(&two)), (1, 1));
        assert_eq!(lent.lend(&one), 1);
    }
}
