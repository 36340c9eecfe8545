//! Slot values, built from parts, and the split each value belongs to.
//!
//! A value belongs to one split whatever the slot and whatever the seed: a hash of its text decides. Its parts
//! (syllables, words, digits) occur in every split, so that a held-out value can be copied but not have been memorised.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use forge_formats::tools::ValueSpec;

use crate::data::Split;
use crate::rng::Rng;

/// Values with a fixed split, so that the project's standing demonstration prompt is a held-out one.
const PINNED: [(&str, Split); 2] = [("bedroom", Split::Test), ("20", Split::Test)];

/// The split a value belongs to: 80 % train, 10 % valid, 10 % test.
pub(crate) fn split_of(value: &str) -> Split {
    if let Some((_, split)) = PINNED.iter().find(|(pinned, _)| *pinned == value) {
        return *split;
    }
    match Rng::new(0, &["value split", value]).below(10) {
        0..=7 => Split::Train,
        8 => Split::Valid,
        _ => Split::Test,
    }
}

/// The values of one slot, by split.
pub(crate) struct Pool([Vec<String>; 3]);

impl Pool {
    fn new(values: Vec<String>) -> Self {
        let part = |split| values.iter().filter(|value| split_of(value) == split).cloned().collect();
        Self(Split::ALL.map(part))
    }

    /// A random value of the split, each equally likely.
    pub(crate) fn pick(&self, split: Split, rng: &mut Rng) -> &str {
        rng.pick(&self.0[split.index()]).as_str()
    }

    /// Every value of the split.
    #[cfg(test)]
    pub(crate) fn values(&self, split: Split) -> impl Iterator<Item = &String> {
        self.0[split.index()].iter()
    }
}

/// The pool of a slot.
///
/// # Panics
/// If no such slot exists; slot names are constants of this crate and every one is checked by a test.
pub(crate) fn pool(slot: &str) -> &'static Pool {
    &POOLS[slot]
}

/// What a slot's values are, held-out ones included. Only numbers are bounded: rooms, names and the like are whatever
/// someone says.
pub(crate) fn kind(slot: &str) -> ValueSpec {
    match slot {
        "level" => ValueSpec::Integer { min: 1, max: 100 },
        "minutes" => ValueSpec::Integer { min: 1, max: 90 },
        "temperature" => ValueSpec::Number,
        _ => ValueSpec::Text,
    }
}

/// Names of all slots with a pool.
#[cfg(test)]
pub(crate) fn slots() -> impl Iterator<Item = &'static str> {
    POOLS.keys().copied()
}

static POOLS: LazyLock<BTreeMap<&'static str, Pool>> = LazyLock::new(|| {
    let foods = || [words(FOODS), pairs(ADJECTIVES, FOODS)].concat();
    let pools: [(&str, Vec<String>); 20] = [
        ("room", [words(ROOMS), pairs(ROOM_KINDS, ROOMS), pairs(ROOMS, ROOM_NUMBERS)].concat()),
        ("level", numbers(1..=100)),
        ("temperature", [numbers(10..=32), halves(10..=31)].concat()),
        ("artist", [bands(), full_names()].concat()),
        ("genre", [words(GENRES), pairs(GENRE_KINDS, GENRES)].concat()),
        ("title", pairs(EVENT_KINDS, EVENTS)),
        ("day", days()),
        ("time", [hours(), minutes_past()].concat()),
        ("minutes", numbers(1..=90)),
        ("label", foods()),
        ("contact", [names(), titled("aunt,uncle,doctor", &names())].concat()),
        ("text", [pairs(SUBJECTS, NEWS), pairs(ASKS, WHEN), titled("bring", &foods())].concat()),
        ("task", pairs(TASK_VERBS, TASK_OBJECTS)),
        ("city", [cities(), titled("new,old,north", &cities())].concat()),
        ("item", foods()),
        ("list", [words(LISTS), pairs(LIST_KINDS, LISTS)].concat()),
        ("topic", pairs(ADJECTIVES, TOPICS)),
        ("animal", pairs(ADJECTIVES, ANIMALS)),
        ("place", pairs(ADJECTIVES, PLACES)),
        ("find", pairs(ADJECTIVES, FINDS)),
    ];
    pools.into_iter().map(|(slot, values)| (slot, Pool::new(values))).collect()
});

// A vocabulary of a few hundred tokens has room for about a hundred words; so words are few and shared, and values
// are many by combination.
const ADJECTIVES: &str = "old,new,big,small,red,blue,green,white,black,warm,cold,sweet,dark,round";
const ROOMS: &str = "bedroom,kitchen,bathroom,office,garage,attic,hall,lounge,nursery,library,studio,porch,\
    living room,dining room";
const ROOM_KINDS: &str = "upstairs,downstairs,front,back,small,big,main,old,new,blue,green,guest";
const ROOM_NUMBERS: &str = "one,two,three,upstairs,downstairs";
const GENRES: &str = "jazz,rock,folk,blues,soul,techno,swing,disco,metal,punk,house,opera";
const GENRE_KINDS: &str = "slow,fast,old,new,happy,sad,quiet,loud,dark,cold,warm,sweet,big,small,summer,winter,\
    german,french";
const EVENT_KINDS: &str = "team,budget,family,doctor,piano,tennis,school,garden,music,art,book,client,birthday,house,\
    summer,winter,weekend,french,german,jazz";
const EVENTS: &str = "meeting,lunch,dinner,lesson,call,visit,class,party,check,review";
const WEEKDAYS: &str = "monday,tuesday,wednesday,thursday,friday,saturday,sunday";
const DAY_PARTS: &str = "morning,night";
const MONTHS: &str = "march,april,may,june,july,august";
const SUBJECTS: &str = "i am,we are,the kids are,dinner is,the car is,everyone is,the train is,the house is,lunch is,\
    the meeting is,the bus is,the guests are";
const NEWS: &str = "late,ready,almost here,on the way,nearly done,at home,waiting outside,early,in the garden,\
    at the station,on time,too cold";
const ASKS: &str = "meet me,call me,pick me up,wait for me,write to me,see you,come over,join us";
const WHEN: &str = "soon,later,at the station,at the office,after work,after lunch,near the park,before dinner,\
    in an hour,this evening";
const TASK_VERBS: &str = "clean,check,fix,paint,move,sell,wash,repair,return,collect,pack,empty,oil,measure";
const TASK_OBJECTS: &str = "the oven,the car,the bike,the fridge,the windows,the shed,the fence,the printer,\
    the heater,the carpet,the boat,the tent,the back door,the garden chairs,the old lamp,the sink,the curtains,\
    the red box,the small table,the new bed";
const FOODS: &str = "milk,apples,onions,carrots,cheese,butter,flour,sugar,chicken,peppers,grapes,plums,beans,olives,\
    honey,juice,bread,rice,eggs,tea,cake,pizza,soup,pasta";
const LISTS: &str = "shopping,party,holiday,work,school,garden,birthday,travel,kitchen,house";
const LIST_KINDS: &str = "big,small,old,new,summer,winter,family,main,weekend,monday,friday,blue";
const TOPICS: &str =
    "ships,maps,lamps,castles,boats,coins,gardens,drums,trains,books,boxes,swords,keys,tables";
const ANIMALS: &str = "fox,hare,crow,bear,wolf,mouse,goat,owl,otter,horse,cat,dog";
const PLACES: &str = "forest,river,valley,hill,village,park,garden,mill,cave,bridge,tower,station";
const FINDS: &str = "apple,key,bell,nest,stone,box,lamp,basket,coin,book,shell,letter";
const BAND_KINDS: &str = "silent,lonely,flying,broken,wild,golden,secret,stone,old,dark,blue,red,cold,sweet";
const BANDS: &str =
    "foxes,rivers,engines,tigers,gardens,shadows,wolves,sisters,kings,ghosts,sailors,riders,lamps,boats";
const NAME_STARTS: &str = "mar,ten,lo,ka,bri,sol,vi,dan,fe,jo,na,ros,el,al";
const NAME_ENDS: &str = "la,rik,na,ton,vin,do,lia,mer,ka,bel,ris,ta";
const SURNAMES: &str = "stone,hill,brook,field,wood,ford,frost,lake,west,north,ash,swift";
const CITY_STARTS: &str = "lor,bram,ost,kel,vin,har,mon,sal,dor,ros,tor,wel,ber,el";
const CITY_ENDS: &str = "ton,vik,burg,ford,stad,field,wick,by,port,more";

fn split_list(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim)
}

fn words(list: &str) -> Vec<String> {
    split_list(list).map(String::from).collect()
}

/// Every word of `first` with every word of `second`, joined by `glue`.
fn joined(first: &str, glue: &str, second: &str) -> Vec<String> {
    let with = |a| split_list(second).map(move |b| format!("{a}{glue}{b}"));
    split_list(first).flat_map(with).collect()
}

fn pairs(first: &str, second: &str) -> Vec<String> {
    joined(first, " ", second)
}

fn numbers(range: std::ops::RangeInclusive<u32>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

fn halves(range: std::ops::RangeInclusive<u32>) -> Vec<String> {
    range.map(|n| format!("{n}.5")).collect()
}

fn names() -> Vec<String> {
    joined(NAME_STARTS, "", NAME_ENDS)
}

/// Every name with every title in front.
fn titled(titles: &str, names: &[String]) -> Vec<String> {
    split_list(titles).flat_map(|title| names.iter().map(move |name| format!("{title} {name}"))).collect()
}

/// Every name with two surnames.
fn full_names() -> Vec<String> {
    let surnames = words(SURNAMES);
    let full = |(i, name): (usize, &String)| {
        [0, 5].map(|shift| format!("{name} {}", surnames[(i * 7 + shift) % surnames.len()]))
    };
    names().iter().enumerate().flat_map(full).collect()
}

fn bands() -> Vec<String> {
    titled("the", &pairs(BAND_KINDS, BANDS))
}

fn cities() -> Vec<String> {
    joined(CITY_STARTS, "", CITY_ENDS)
}

/// Weekdays and dates, with and without a part of the day.
fn days() -> Vec<String> {
    let single = words(&format!("{WEEKDAYS},today,tomorrow"));
    let next = pairs("next,this", WEEKDAYS);
    let near = [single, next].concat().join(",");
    [words(&near), pairs(&near, DAY_PARTS), pairs(MONTHS, &numbers(1..=28).join(","))].concat()
}

fn hours() -> Vec<String> {
    pairs(&numbers(1..=12).join(","), "am,pm")
}

fn minutes_past() -> Vec<String> {
    let times = joined(&numbers(1..=12).join(","), ":", "10,15,20,30,40,45");
    pairs(&times.join(","), "am,pm")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_has_values_in_every_split_and_enough_to_train_on() {
        for slot in slots() {
            let count = |split| pool(slot).values(split).count();
            assert!(
                count(Split::Valid) >= 4 && count(Split::Test) >= 4,
                "{slot} has too few held-out values"
            );
            assert!(count(Split::Train) >= 30, "{slot} has too few training values");
        }
    }

    #[test]
    fn every_value_is_of_its_slots_kind_and_every_bound_is_met() {
        for slot in slots() {
            let values: Vec<&String> =
                Split::ALL.into_iter().flat_map(|split| pool(slot).values(split)).collect();
            match kind(slot) {
                ValueSpec::Integer { min, max } => {
                    let numbers: Vec<i64> = values.iter().map(|value| value.parse().unwrap()).collect();
                    assert_eq!(
                        (numbers.iter().min(), numbers.iter().max()),
                        (Some(&min), Some(&max)),
                        "{slot}"
                    );
                }
                ValueSpec::Number => assert!(values.iter().all(|v| v.parse::<f64>().is_ok()), "{slot}"),
                kind => {
                    let numeric = values.iter().filter(|v| v.parse::<f64>().is_ok()).count();
                    assert_eq!((kind, numeric), (ValueSpec::Text, 0), "{slot}");
                }
            }
        }
    }

    #[test]
    fn demonstration_values_are_held_out() {
        assert_eq!(split_of("bedroom"), Split::Test);
        assert_eq!(split_of("20"), Split::Test);
        assert!(pool("room").values(Split::Train).any(|v| v.ends_with(" bedroom")), "its word is not");
    }
}
