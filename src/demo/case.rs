use super::draw::{draw, pick};
use super::topic::Topic;

/// One customer with one wish; everything about it follows from the seed and its number.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Case {
    pub index: usize,
    pub topic: Topic,
    pub name: String,
    pub email: String,
    pub customer_id: String,
    pub order_id: String,
    pub product: &'static Product,
    /// The first message.
    pub opening: String,
}

/// Something the shop sells.
#[derive(Debug, PartialEq)]
pub(super) struct Product {
    pub sku: &'static str,
    pub name: &'static str,
    /// Euros; all above the limit for refunds without an approval.
    pub price: f64,
    pub in_stock: u32,
}

pub(super) const PRODUCTS: [Product; 8] = [
    Product { sku: "KT-1204", name: "copper kettle", price: 119.0, in_stock: 14 },
    Product { sku: "LP-0310", name: "reading lamp", price: 134.5, in_stock: 3 },
    Product { sku: "CH-7781", name: "oak chair", price: 189.0, in_stock: 0 },
    Product { sku: "HP-5520", name: "pair of headphones", price: 249.9, in_stock: 41 },
    Product { sku: "BG-0092", name: "travel bag", price: 145.0, in_stock: 8 },
    Product { sku: "CM-3317", name: "coffee mill", price: 168.0, in_stock: 5 },
    Product { sku: "RD-4406", name: "kitchen radio", price: 102.4, in_stock: 27 },
    Product { sku: "BK-8150", name: "bread maker", price: 211.0, in_stock: 2 },
];

const FIRST: [&str; 14] = [
    "Ada", "Bruno", "Chiara", "Dmitri", "Elena", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Kemal", "Lena",
    "Mirko", "Nora",
];
const LAST: [&str; 9] = ["Albers", "Brandt", "Costa", "Dahl", "Ertl", "Fuchs", "Gallo", "Holm", "Ivanov"];
const STREETS: [&str; 6] = ["Lindenweg", "Hafenstrasse", "Am Markt", "Birkenallee", "Ringstrasse", "Seeufer"];
const CITIES: [(&str, &str); 4] =
    [("10115", "Berlin"), ("20095", "Hamburg"), ("50667", "Koeln"), ("80331", "Muenchen")];

impl Case {
    pub(super) fn new(seed: u64, index: usize) -> Self {
        let of = index.to_string();
        let topic = Topic::ALL[index % Topic::ALL.len()];
        let (first, last) = (pick(&FIRST, seed, "first name", &of), pick(&LAST, seed, "last name", &of));
        let product = pick(&PRODUCTS, seed, "product", &of);
        let (postal_code, city) = pick(&CITIES, seed, "city", &of);
        let house = draw(seed, "house", &of) % 80 + 1;
        let street = format!("{} {house}, {postal_code} {city}", pick(&STREETS, seed, "street", &of));
        // the number in the address keeps customers of one name apart
        let email = format!("{}.{}{index}@example.org", first.to_lowercase(), last.to_lowercase());
        let order_id = format!("W{}", 20_000 + index * 211 + (draw(seed, "order", &of) % 211) as usize);
        let opening = pick(topic.openings(), seed, "opening", &of)
            .replace("{order}", &order_id)
            .replace("{product}", product.name)
            .replace("{total}", &format!("{:.2}", product.price))
            .replace("{email}", &email)
            .replace("{street}", &street);
        // some topics name neither an order nor an account: the name keeps their openings apart
        let opening =
            if topic == Topic::Triage { opening } else { format!("{opening} {first} {last}, no. {index}") };
        Self {
            index,
            topic,
            name: format!("{first} {last}"),
            email,
            customer_id: format!("C{}", 7000 + index),
            order_id,
            product,
            opening,
        }
    }
}
