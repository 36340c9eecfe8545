//! Slot values, built from parts, and the split each value belongs to.
//!
//! A value belongs to one split whatever the slot and whatever the seed: a hash of its text decides. Its parts
//! (syllables, words) occur in every split, so that a held-out value can be copied but not have been memorised.

use std::collections::BTreeMap;
use std::sync::LazyLock;

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

/// The values of one slot: tiers of like values (bare words, compounds), each tier equally likely.
pub(crate) struct Pool([Vec<Vec<String>>; 3]);

impl Pool {
    fn new(tiers: Vec<Vec<String>>) -> Self {
        Self(Split::ALL.map(|split| {
            let part = |tier: &Vec<String>| -> Vec<String> {
                tier.iter().filter(|value| split_of(value) == split).cloned().collect()
            };
            tiers.iter().map(part).filter(|tier| !tier.is_empty()).collect()
        }))
    }

    /// A random value of the split.
    pub(crate) fn pick(&self, split: Split, rng: &mut Rng) -> &str {
        let tier = rng.pick(&self.0[split.index()]);
        rng.pick(tier).as_str()
    }

    /// Every value of the split.
    #[cfg(test)]
    pub(crate) fn values(&self, split: Split) -> impl Iterator<Item = &String> {
        self.0[split.index()].iter().flatten()
    }
}

/// The pool of a slot.
///
/// # Panics
/// If no such slot exists; slot names are constants of this crate and every one is checked by a test.
pub(crate) fn pool(slot: &str) -> &'static Pool {
    &POOLS[slot]
}

/// Names of all slots with a pool.
#[cfg(test)]
pub(crate) fn slots() -> impl Iterator<Item = &'static str> {
    POOLS.keys().copied()
}

static POOLS: LazyLock<BTreeMap<&'static str, Pool>> = LazyLock::new(|| {
    let pools: [(&str, Vec<Vec<String>>); 20] = [
        ("room", vec![words(ROOMS), pairs(ROOM_KINDS, ROOMS)]),
        ("level", vec![numbers(1..=100)]),
        ("temperature", vec![numbers(10..=32), halves(10..=31)]),
        ("artist", vec![bands(), full_names()]),
        ("genre", vec![words(GENRES), pairs(GENRE_KINDS, GENRES)]),
        ("title", vec![pairs(EVENT_KINDS, EVENTS)]),
        ("day", vec![words(DAYS), pairs("next,this", WEEKDAYS), dates()]),
        ("time", vec![hours(), minutes_past(), clock()]),
        ("minutes", vec![numbers(1..=90)]),
        ("label", vec![words(DISHES), pairs(DISH_KINDS, DISHES)]),
        ("contact", vec![names(), titled_names()]),
        ("text", vec![pairs(NEWS_SUBJECTS, NEWS), pairs(ASKS, ASK_WHEN), pairs("bring,buy,take", &things())]),
        ("task", vec![pairs(TASK_VERBS, TASK_OBJECTS)]),
        ("city", vec![cities()]),
        ("item", vec![words(FOODS), pairs(FOOD_KINDS, FOODS)]),
        ("list", vec![words(LISTS), pairs(LIST_KINDS, LISTS)]),
        ("topic", vec![pairs(TOPIC_KINDS, TOPICS)]),
        ("animal", vec![pairs(ANIMAL_KINDS, ANIMALS)]),
        ("place", vec![pairs(PLACE_KINDS, PLACES)]),
        ("find", vec![pairs(FIND_KINDS, FINDS)]),
    ];
    pools.into_iter().map(|(slot, tiers)| (slot, Pool::new(tiers))).collect()
});

const ROOMS: &str = "bedroom,kitchen,bathroom,office,garage,attic,cellar,hallway,lounge,nursery,library,studio,\
    pantry,porch,living room,dining room,guest room,laundry room,play room,workshop";
const ROOM_KINDS: &str =
    "upstairs,downstairs,front,back,small,big,main,north,south,east,west,blue,green,old,new";
const GENRES: &str = "jazz,rock,folk,blues,soul,techno,opera,swing,disco,reggae,country,metal,punk,house,salsa,\
    gospel,ambient,indie";
const GENRE_KINDS: &str =
    "slow,fast,acoustic,modern,classic,quiet,loud,happy,sad,early,late,nordic,latin,southern";
const EVENT_KINDS: &str = "budget,team,project,design,sales,family,dentist,doctor,piano,guitar,yoga,tennis,swimming,\
    french,spanish,board,client,garden,school,parents,birthday,book club,science,art,cooking,dance,music,safety,\
    planning,staff";
const EVENTS: &str = "review,meeting,lunch,dinner,lesson,call,visit,appointment,workshop,class,party,interview,exam,\
    practice,breakfast,briefing,session,check";
const WEEKDAYS: &str = "monday,tuesday,wednesday,thursday,friday,saturday,sunday";
const DAYS: &str = "monday,tuesday,wednesday,thursday,friday,saturday,sunday,today,tomorrow,tonight,this weekend,\
    the day after tomorrow,next week,this week,christmas,easter";
const DISHES: &str =
    "pasta,rice,eggs,tea,bread,cake,pizza,soup,stew,cookies,potatoes,beans,pie,noodles,roast,coffee";
const DISH_KINDS: &str = "green,red,hot,cold,sweet,fresh,baked,fried,apple,lemon,onion,tomato,big,small,brown,black,\
    ginger,butter";
const NEWS_SUBJECTS: &str = "i am,we are,the kids are,dinner is,the parcel is,the car is,everyone is,the train is,\
    the house is,lunch is,the meeting is,the bus is,the guests are,the plumber is";
const NEWS: &str = "late,ready,almost here,on the way,nearly done,at home,delayed,waiting outside,cancelled,\
    early,stuck in traffic,in the garden,at the station,fine,on time,too cold";
const ASKS: &str =
    "meet me,call me,pick me up,wait for me,write to me,see you,come over,find me,visit us,join us";
const ASK_WHEN: &str = "soon,later,at the station,at the office,after work,after lunch,near the park,before dinner,\
    in an hour,outside the school,next to the bank,when you can,this evening,by the river";
const TASK_VERBS: &str = "clean,check,fix,paint,move,sell,wash,repair,inspect,return,collect,replace,measure,\
    photograph,pack,empty,oil,polish";
const TASK_OBJECTS: &str = "the oven,the car,the bike,the fridge,the windows,the shed,the fence,the boiler,the gutters,\
    the printer,the lawn mower,the camera,the suitcase,the heater,the carpet,the boat,the bookshelf,the tent,\
    the back door,the garden chairs,the fish tank,the old lamp,the sink,the dishwasher,the filters,the curtains";
const FOODS: &str = "milk,apples,onions,carrots,cheese,butter,yogurt,flour,sugar,salmon,chicken,lettuce,peppers,grapes,\
    cherries,plums,mushrooms,lentils,almonds,olives,honey,vinegar,juice,crackers,chocolate,tofu,garlic,spinach,\
    bananas,oranges";
const FOOD_KINDS: &str = "red,green,white,brown,fresh,frozen,smoked,dried,organic,cheap,sweet,salted,spicy,small,\
    large,ripe,roasted,sliced,local,sour";
const LISTS: &str = "shopping,grocery,packing,party,holiday,camping,hardware,birthday,work,school,picnic,weekend,\
    travel,wedding,garden,pharmacy";
const LIST_KINDS: &str = "summer,winter,family,big,small,monthly,weekly,main,second,spare,spring,autumn";
const TOPIC_KINDS: &str = "old,new,wooden,golden,tiny,giant,silver,strange,broken,famous,hidden,painted,stolen,foreign,\
    rusty,shiny,cheap,precious";
const TOPICS: &str = "ships,maps,parrots,lanterns,castles,bridges,clocks,boats,coins,gardens,drums,kites,robots,trains,\
    mirrors,books,telescopes,islands,ropes,barrels,swords,keys";
const ANIMAL_KINDS: &str = "old,young,grey,brown,hungry,tired,clever,lazy,small,brave,shy,white";
const ANIMALS: &str = "fox,hare,crow,bear,wolf,mouse,goat,owl,badger,heron,otter,horse,hedgehog,cat";
const PLACE_KINDS: &str = "dark,quiet,frozen,green,high,windy,empty,distant,sunny,narrow";
const PLACES: &str = "forest,river,meadow,valley,hill,village,harbour,orchard,mill,cave,bridge,tower";
const FIND_KINDS: &str = "red,silver,wooden,broken,warm,round,heavy,bright,lost,soft";
const FINDS: &str = "apple,key,bell,nest,stone,feather,lantern,basket,coin,blanket,shell,letter";
const BAND_KINDS: &str = "silent,electric,crimson,lonely,velvet,paper,flying,broken,midnight,wild,plastic,golden,\
    burning,frozen,secret,hollow,cosmic,stone";
const BANDS: &str = "foxes,rivers,mirrors,engines,tigers,gardens,pilots,shadows,wolves,lanterns,islands,sisters,\
    drummers,kings,ghosts,sailors,rockets,candles,riders,prophets";
const NAME_STARTS: &str =
    "mar,ten,lo,ka,bri,sol,vi,dan,fe,gor,hel,jo,na,pe,ros,tam,ul,wen,yas,zi,al,el,or,ir";
const NAME_ENDS: &str = "la,rik,na,ton,ssa,vin,do,lia,mer,ka,bel,ris,nor,ta,wen,dra,mo,sha,lin,gus";
const SURNAMES: &str = "stone,hill,brook,field,wood,ford,marsh,vale,frost,lake,moore,reed,banks,holt,west,north,ash,\
    birch,thorn,swift";
const CITY_STARTS: &str = "lor,bram,ost,kel,vin,har,mon,sal,dor,fen,gal,ros,tor,wel,ald,ber,cor,nor,pel,stran,ul,ram,\
    hol,mil";
const CITY_ENDS: &str = "ton,vik,burg,ford,stad,haven,mouth,field,dale,wick,by,port,nes,more,ville,minster";
const MONTHS: &str = "january,february,march,april,may,june,july,august,september,october,november,december";

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

fn things() -> String {
    split_list(FOODS).map(|food| format!("some {food}")).collect::<Vec<_>>().join(",")
}

fn names() -> Vec<String> {
    joined(NAME_STARTS, "", NAME_ENDS)
}

fn titled_names() -> Vec<String> {
    let names = names();
    let titled = |(i, name): (usize, &String)| {
        let title = ["aunt", "uncle", "doctor", "cousin"][i % 4];
        format!("{title} {name}")
    };
    names.iter().enumerate().map(titled).collect()
}

fn full_names() -> Vec<String> {
    let surnames = words(SURNAMES);
    let full = |(i, name): (usize, &String)| format!("{name} {}", surnames[i * 7 % surnames.len()]);
    names().iter().enumerate().map(full).collect()
}

fn bands() -> Vec<String> {
    pairs(BAND_KINDS, BANDS).iter().map(|band| format!("the {band}")).collect()
}

fn cities() -> Vec<String> {
    joined(CITY_STARTS, "", CITY_ENDS)
}

fn dates() -> Vec<String> {
    pairs(MONTHS, &numbers(1..=28).join(","))
}

fn hours() -> Vec<String> {
    let mut times = pairs(&numbers(1..=12).join(","), "am,pm");
    times.extend(words("noon,midnight,half past six,half past nine,quarter to five,quarter past eight"));
    times
}

fn minutes_past() -> Vec<String> {
    let hours = numbers(1..=12).join(",");
    let times = joined(&hours, ":", "05,10,15,20,30,40,45,50");
    pairs(&times.join(","), "am,pm")
}

fn clock() -> Vec<String> {
    joined(&numbers(13..=23).join(","), ":", "00,10,15,20,30,40,45,55")
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
    fn demonstration_values_are_held_out() {
        assert_eq!(split_of("bedroom"), Split::Test);
        assert_eq!(split_of("20"), Split::Test);
        assert!(pool("room").values(Split::Train).any(|v| v.ends_with(" bedroom")), "its word is not");
    }
}
