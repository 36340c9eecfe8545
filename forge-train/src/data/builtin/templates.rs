//! The phrasings of the assistant's tools, by split. A leading `!` marks a sentence that takes no politeness
//! around it. A test checks that no expansion of a held-out template is one of a training template.

/// A tool with its phrasings.
pub(super) struct ToolTemplates {
    /// Name of the tool.
    pub(super) tool: &'static str,
    /// Its slots, in the order a call writes them.
    pub(super) slots: &'static [&'static str],
    /// Phrasings of train, valid and test.
    pub(super) prompts: [&'static [&'static str]; 3],
    /// Acknowledgements; the one with exactly the call's slots is used.
    pub(super) replies: &'static [&'static str],
}

pub(super) const TOOLS: [ToolTemplates; 10] = [
    SET_LIGHT,
    SET_THERMOSTAT,
    PLAY_MUSIC,
    ADD_EVENT,
    SET_TIMER,
    SEND_MESSAGE,
    CREATE_REMINDER,
    GET_WEATHER,
    CALL_CONTACT,
    ADD_TO_LIST,
];

const SET_LIGHT: ToolTemplates = ToolTemplates {
    tool: "set_light",
    slots: &["room", "level"],
    prompts: [
        &[
            "(set|turn|put) the {room} lights to {level}( percent|)",
            "(set|change|bring) the lights in the {room} to {level}( percent|)",
            "dim the lights in the {room} to {level}( percent|)",
            "dim the {room} to {level}( percent|)",
            "dim the {room} (lamp|light) to {level}( percent|)",
            "brighten the {room} lights to {level}( percent|)",
            "(lower|raise) the {room} (light|lamp) to {level}( percent|)",
            "make the {room} lights {level} percent",
            "(set|put) {room} lights at {level}( percent|)",
            "!i (want|need) the {room} lights at {level}( percent|)",
            "!i would like {level} percent light in the {room}",
            "!the {room} lights should be at {level}( percent|)",
            "turn the light in the {room} (up|down) to {level}",
            "adjust the {room} (light|lamp) to {level}( percent|)",
            "set the brightness (in|of) the {room} to {level}( percent|)",
            "change the {room} brightness to {level}( percent|)",
            "!lights in the {room} to {level}( percent|)",
            "give me {level} percent light in the {room}",
        ],
        &[
            "adjust the {room} lights to {level}( percent|)",
            "adjust the lights in the {room} to {level}( percent|)",
            "dim the lamp in the {room} to {level}",
            "bring the {room} lights (up|down) to {level}",
        ],
        &[
            "dim the {room} lights to {level}( percent|)",
            "lower the lights in the {room} to {level}( percent|)",
            "!i need the lights in the {room} at {level}( percent|)",
            "set the lamp in the {room} to {level} percent",
        ],
    ],
    replies: &["okay, i will set the {room} lights to {level}"],
};

const SET_THERMOSTAT: ToolTemplates = ToolTemplates {
    tool: "set_thermostat",
    slots: &["room", "temperature"],
    prompts: [
        &[
            "(set|put|turn) the (thermostat|heating) to {temperature}( degrees|)( in the {room}|)",
            "heat the {room} to {temperature}( degrees|)",
            "(warm|cool) the {room} to {temperature} degrees",
            "(set|change) the temperature( in the {room}|) to {temperature}( degrees|)",
            "make it {temperature} degrees( in the {room}|)",
            "keep the {room} at {temperature}( degrees|)",
            "keep the heating at {temperature}( degrees|)",
            "(heat|warm) the house to {temperature}( degrees|)",
            "!the house should be {temperature} degrees",
            "adjust the {room} (thermostat|temperature) to {temperature}",
            "bring the {room} (up|down) to {temperature} degrees",
            "!i (want|need) {temperature} degrees( in the {room}|)",
            "!i would like the {room} at {temperature} degrees",
            "!the {room} should be {temperature} degrees",
            "turn the heating in the {room} (up|down) to {temperature}",
            "set {temperature} degrees( in the {room}|)",
            "change the thermostat to {temperature}",
        ],
        &[
            "put the {room} heating at {temperature}( degrees|)",
            "keep the house at {temperature} degrees",
            "!it should be {temperature} degrees( in the {room}|)",
        ],
        &[
            "set the {room} thermostat to {temperature}( degrees|)",
            "cool the house to {temperature} degrees",
            "keep it at {temperature} degrees( in the {room}|)",
            "change the heating( in the {room}|) to {temperature}( degrees|)",
        ],
    ],
    replies: &[
        "okay, i will heat the {room} to {temperature} degrees",
        "okay, i will heat the house to {temperature} degrees",
    ],
};

const PLAY_MUSIC: ToolTemplates = ToolTemplates {
    tool: "play_music",
    slots: &["artist", "genre", "room"],
    prompts: [
        &[
            "play (something|songs|music) by {artist}( in the {room}|)",
            "play (some|a little) {genre}( in the {room}|)",
            "put on (songs|an album|something) by {artist}",
            "put on (some|a little|a bit of) {genre} music",
            "!i want to (hear|listen to) {artist}( in the {room}|)",
            "!i want to (hear|listen to) some {genre}( in the {room}|)",
            "start (some|the) {genre} music( in the {room}|)",
            "start playing {artist}( in the {room}|)",
            "let me hear (songs|music) by {artist}",
            "let me hear (some|your best) {genre}",
            "play {genre} music( in the {room}|)",
            "!i would like to hear {artist}( in the {room}|)",
            "let me listen to some {genre}",
            "play {artist} on the {room} speaker",
            "play the (new|best|latest) (album|song) by {artist}",
            "turn on (some|a bit of) {genre} in the {room}",
            "!i feel like (some|a little) {genre}",
            "fill the {room} with {genre}",
        ],
        &[
            "play me something by {artist}",
            "put on {genre} music in the {room}",
            "let me hear something by {artist}( in the {room}|)",
            "!i would like to hear some {genre} music",
        ],
        &[
            "start (a song|an album) by {artist}( in the {room}|)",
            "play a bit of {genre} music( in the {room}|)",
            "put on a little {genre} in the {room}",
            "let me listen to (songs|music) by {artist}",
        ],
    ],
    replies: &[
        "okay, i will play {artist}",
        "okay, i will play {artist} in the {room}",
        "okay, i will play some {genre}",
        "okay, i will play some {genre} in the {room}",
    ],
};

const ADD_EVENT: ToolTemplates = ToolTemplates {
    tool: "add_event",
    slots: &["title", "day", "time"],
    prompts: [
        &[
            "(add|put) {title} (to|in|on) my calendar for {day}( at {time}|)",
            "(add|create|make) an event {title} for {day}( at {time}|)",
            "schedule (a|the) {title} for {day}( at {time}|)",
            "schedule {title} {day} at {time}",
            "plan (a|the) {title} for {day}( at {time}|)",
            "book (a|the) {title} for {day}( at {time}|)",
            "put (a|the) {title} {day} at {time} in my calendar",
            "!i have (a|the) {title} {day}( at {time}|)",
            "!there is a {title} {day}( at {time}|)",
            "!i have (a|the) {title} {day}( at {time}|), add it to my calendar",
            "add to my calendar {title} {day} at {time}",
            "create a calendar entry for {title} {day}( at {time}|)",
            "mark {day} for (a|the) {title}",
            "!my {title} is {day}( at {time}|)",
            "save the date {day} for {title}",
            "set up (a|the) {title} at {time} {day}",
        ],
        &[
            "note (a|the) {title} for {day}( at {time}|) in my calendar",
            "plan {title} {day} at {time}",
            "create an event for (a|the) {title} {day}( at {time}|)",
        ],
        &[
            "add (a|the) {title} {day}( at {time}|) to my calendar",
            "book {title} {day} at {time}",
            "set up an event {title} for {day}( at {time}|)",
            "!i have (a|the) {title} {day} at {time}, put it in my calendar",
        ],
    ],
    replies: &["okay, i will add the {title} for {day}", "okay, i will add the {title} for {day} at {time}"],
};

const SET_TIMER: ToolTemplates = ToolTemplates {
    tool: "set_timer",
    slots: &["minutes", "label"],
    prompts: [
        &[
            "set a timer for {minutes} minutes( for the {label}|)",
            "set a {minutes} minute timer( for the {label}|)",
            "start a timer (for|of) {minutes} minutes( for the {label}|)",
            "start a {minutes} minute {label} timer",
            "time the {label} for {minutes} minutes",
            "count (down|) {minutes} minutes( for the {label}|)",
            "give me {minutes} minutes( for the {label}|)",
            "!i need a timer for {minutes} minutes( for the {label}|)",
            "!the {label} (needs|takes) {minutes} minutes",
            "put {minutes} minutes on the clock( for the {label}|)",
            "make a timer (for|of) {minutes} minutes( called {label}|)",
            "create a {label} timer for {minutes} minutes",
            "begin a {minutes} minute countdown( for the {label}|)",
            "!timer for {minutes} minutes( for the {label}|)",
            "ring in {minutes} minutes( for the {label}|)",
        ],
        &[
            "begin a timer of {minutes} minutes( for the {label}|)",
            "set the {label} timer to {minutes} minutes",
            "!i need {minutes} minutes( for the {label}|)",
        ],
        &[
            "start a {minutes} minute timer( for the {label}|)",
            "set a {label} timer for {minutes} minutes",
            "time {minutes} minutes for the {label}",
            "begin a countdown of {minutes} minutes( for the {label}|)",
        ],
    ],
    replies: &[
        "okay, i will set a timer for {minutes} minutes",
        "okay, i will set a timer for {minutes} minutes for the {label}",
    ],
};

const SEND_MESSAGE: ToolTemplates = ToolTemplates {
    tool: "send_message",
    slots: &["contact", "text"],
    prompts: [
        &[
            "(send|write) a (message|text) to {contact} saying {text}",
            "(text|message) {contact} that {text}",
            "(text|message) {contact} saying {text}",
            "tell {contact} that {text}",
            "tell {contact} {text}",
            "let {contact} know that {text}",
            "send {contact} the message {text}",
            "write {contact} that {text}",
            "write to {contact} saying {text}",
            "send {text} to {contact}",
            "(send|write) {contact} a (text|message) saying {text}",
            "send a note to {contact} that says {text}",
            "inform {contact} that {text}",
            "!i want to tell {contact} that {text}",
            "!my message to {contact} is {text}",
        ],
        &[
            "let {contact} know {text}",
            "send a message to {contact} that says {text}",
            "!i need to tell {contact} {text}",
        ],
        &[
            "write a note to {contact} saying {text}",
            "send {contact} a note that says {text}",
            "write {contact} {text}",
            "message {contact} {text}",
        ],
    ],
    replies: &["okay, i will tell {contact} {text}"],
};

const CREATE_REMINDER: ToolTemplates = ToolTemplates {
    tool: "create_reminder",
    slots: &["task", "time"],
    prompts: [
        &[
            "remind me to {task} at {time}",
            "remind me at {time} to {task}",
            "(set|create|add) a reminder to {task} at {time}",
            "(set|create|make) a reminder for {time} to {task}",
            "!i (need|have) to {task} at {time}, remind me",
            "do not let me forget to {task} at {time}",
            "!at {time} remind me to {task}",
            "!wake me at {time} to {task}",
            "make sure i {task} at {time}",
            "help me remember to {task} at {time}",
            "nudge me at {time} to {task}",
            "!i must {task} at {time}, set a reminder",
            "put in a reminder at {time} to {task}",
            "tell me to {task} at {time}",
            "!reminder to {task} at {time}",
        ],
        &[
            "nudge me to {task} at {time}",
            "add a reminder for {time} to {task}",
            "!i must {task} at {time}, remind me",
        ],
        &[
            "help me remember at {time} to {task}",
            "make a reminder to {task} at {time}",
            "tell me at {time} to {task}",
            "!i need to {task} at {time}, set a reminder",
        ],
    ],
    replies: &["okay, i will remind you to {task} at {time}"],
};

const GET_WEATHER: ToolTemplates = ToolTemplates {
    tool: "get_weather",
    slots: &["city", "day"],
    prompts: [
        &[
            "!what is the weather (in|for) {city}( for {day}|)",
            "!what is the weather like in {city}( {day}|)",
            "!how is the weather in {city}( {day}|)",
            "!will it (rain|snow|be sunny|be windy) in {city}( {day}|)",
            "tell me the weather (in|for) {city}( {day}|)",
            "(show|get|check) the weather (in|for) {city}( {day}|)",
            "(show|get|check) the forecast for {city}( {day}|)",
            "!do i need (an umbrella|a coat) in {city}( {day}|)",
            "!what will the weather be in {city} {day}",
            "!is it (cold|warm|raining|windy) in {city}",
            "!weather in {city}( {day}|)",
            "!how (cold|warm|hot) will it (be|get) in {city} {day}",
            "!i want the weather (in|for) {city}( {day}|)",
            "look up the weather in {city}( {day}|)",
            "give me the {city} forecast( for {day}|)",
        ],
        &[
            "!will it be (cold|warm) in {city} {day}",
            "look up the forecast for {city}( {day}|)",
            "!how will the weather be in {city} {day}",
        ],
        &[
            "!what is the forecast (in|for) {city}( {day}|)",
            "!is it (raining|windy) in {city} {day}",
            "give me the weather in {city}( for {day}|)",
            "!how is the forecast for {city}( {day}|)",
        ],
    ],
    replies: &[
        "okay, i will look up the weather in {city}",
        "okay, i will look up the weather in {city} for {day}",
    ],
};

const CALL_CONTACT: ToolTemplates = ToolTemplates {
    tool: "call_contact",
    slots: &["contact"],
    prompts: [
        &[
            "(call|ring|phone|dial) {contact}",
            "give {contact} a (call|ring)",
            "make a (call|phone call) to {contact}",
            "start a call (to|with) {contact}",
            "get {contact} on the (phone|line)",
            "!i (want|need) to (talk|speak) (to|with) {contact}",
            "put me through to {contact}",
            "connect me (to|with) {contact}",
            "dial the number of {contact}",
            "place a (call|phone call) to {contact}",
            "!i want to call {contact}",
            "!i would like to (call|ring) {contact}",
            "call {contact} on the phone",
            "ring {contact} at home",
            "let me (talk|speak) (to|with) {contact}",
        ],
        &[
            "phone {contact} at home",
            "!i would like to (talk|speak) to {contact}",
            "start a phone call with {contact}",
        ],
        &[
            "!i need to (call|phone) {contact}",
            "get me {contact} on the (phone|line)",
            "phone the number of {contact}",
            "make a (call|phone call) with {contact}",
        ],
    ],
    replies: &["okay, i will call {contact}"],
};

const ADD_TO_LIST: ToolTemplates = ToolTemplates {
    tool: "add_to_list",
    slots: &["item", "list"],
    prompts: [
        &[
            "add {item} to (the|my) {list} list",
            "put {item} on (the|my) {list} list",
            "write {item} on (the|my) {list} list",
            "!we (need|want) {item}, add it to the {list} list",
            "(add|include) {item} in (the|my) {list} list",
            "note {item} on the {list} list",
            "get {item} onto the {list} list",
            "!the {list} list needs {item}",
            "!we are out of {item}, put it on the {list} list",
            "add to (the|my) {list} list {item}",
            "!on the {list} list put {item}",
            "save {item} to (the|my) {list} list",
            "update my {list} list with {item}",
            "extend the {list} list with {item}",
            "!we are low on {item}, add it to my {list} list",
        ],
        &[
            "note {item} in (the|my) {list} list",
            "!i want {item} on the {list} list",
            "save {item} on (the|my) {list} list",
        ],
        &[
            "put {item} in (the|my) {list} list",
            "!i need {item} on the {list} list",
            "write {item} in (the|my) {list} list",
            "!we are out of {item}, add it to my {list} list",
        ],
    ],
    replies: &["okay, i will add {item} to the {list} list"],
};
