"""The story and its plots, in the notation of `stories_notation`. To add to them, add a row.

A story has an opening (who, where, with whom), a plot that a day brings, and an ending that remembers both.

For the writer: what one row of a table prints must not begin what another prints (let the words that tell them apart
come before a full stop; the tests prove it). In the past tense only was and were agree with the number; write
`{hero.was}`, since the hero may be two mice.
"""

PLOTS = """
story
    {opening} {habit} {company}/{when} {plot}/{ending}//


# --- opening ---------------------------------------------------------------------------------------------------------

opening
    Once upon a time {hero = person.intro} lived {home}.
    Long ago, {home}, there lived {hero = person.intro}.
    {Home} lived {hero = person.intro}.
    Meet {hero = person.intro}, who lived {home}.
    There once lived {hero = person.intro}, {home}.

habit
    {Hero.they} liked {joy = art} {look} {object = noun}s, {fun} and {taste = flavour} {treat = dish}.
    {Hero.they} had {number} {thing}s, loved {joy = art} {object = noun}s, and ate {taste = flavour} {treat = dish}.
    {Hero.they} owned {a thing}, {a thing} and {a thing}, but loved {joy = art} {object = noun}s and \
{taste = flavour} {treat = dish}.
    On {day = weekday}s {hero.they} tried {fun}, on {weekday}s {joy = art} {object = noun}s, and {taste = flavour} \
{treat = dish} after that.

company
    {Hero.their} {friend = person.pal} {deed = deed} like {a air = look} {image = noun}.
    {Number} doors away {hero.their} {friend = person.pal} {deed = deed} like {a air = look} {image = noun}.
    {Hero.their} {friend = person.pal} had {number} {thing}s and {deed = deed} like {a air = look} {image = noun}.
    {Hero.their} {friend = person.pal} lived with {a creature} and {deed = deed} like {a air = look} {image = noun}.


# --- plots -----------------------------------------------------------------------------------------------------------

plot
    {lost} | {quarrel} | {promise} | {journey} | {trade} | {cake} | {noise} | {stray} | {machine}


# A lost thing is found.
lost
    {hero} lost {hero.their} {shade = look} {toy = toy}. {missed} {searched}/{advised} {found} {excused}

missed
    "{Hero.i} had {toy.them} while {fun}," {hero.they} {sadly}.
    "Who took {hero.my} {toy}?" {hero.they} asked {a creature}.
    {Hero.they} cried into {a thing} for {number} minutes.
    {Hero.they} promised {number} {thing}s as a reward.

searched
    {Spot} {hero.they} found {a thing}, and {spot} {a thing}.
    {Hero.they} looked {spot}, {spot} and even inside {a thing}.
    {Spot} sat {a creature}, and {spot} lay {a thing}, but no {toy}.

advised
    {Friend} came to help, with {a thing}, {a thing} and some {food}.
    "Was it while {fun}?" asked {friend}. "Or while {fun}?"
    "First some {food}," {said} {friend}, "and then we look {spot}."

found
    And {spot} {toy.was} the {shade} {toy}, with {a look} {thief = animal} on top.
    Then {a look} {thief = animal} came by, dragging the {shade} {toy} and {a thing}.
    They met {a look} {thief = animal} {spot}, and behind it {toy.was} the {shade} {toy}.

excused
    "You may borrow {toy.them} on {weekday}s," {said} {hero}.
    The {thief} got some {food}, and {hero} got the {toy}.
    "{Toy.they} {toy.is} not for {fun}," {said} {hero}. The {thief} looked a little sorry.


# A quarrel, and making up.
quarrel
    {hero} and {friend} found {a shade = look} {prize = noun} {spot}. {claimed} {parted}/{alone} {sorry} {shared}

claimed
    "It was mine first," {said} {hero}. "I need it for {fun}," {said} {friend}.
    "It is just right for {fun}," {said} {hero}. "No, for {fun}," {said} {friend}.
    "Mine," {said} {hero}. "Mine," {said} {friend}, {number} times.

parted
    They shouted until {a creature} hid {spot}, and {friend} left.
    One was called {a thing}, the other {a thing}, and {friend} left.
    They pulled until {friend} fell over {a creature} and left.

alone
    But even {joy} {object}s was no fun without {friend}.
    {Hero} made {taste} {treat}, but it tasted of {noun}s.
    {Hero} thought of {friend}. Who else {deed} like {a air} {image}?

sorry
    So {hero.they} took {food} and {a thing}. "{Hero.am} sorry," {hero.they} {sadly}.
    In came {friend} with {a thing}. "{Friend.am} sorry," {friend.they} {sadly}.
    So {hero.they} sent a letter with {number} mistakes and {a thing}, and {friend} came running.

shared
    The {prize} stayed with {hero}, except on {weekend = weekday}s and {weekday}s.
    They gave the {shade} {prize} to {a creature}.
    Together they used the {shade} {prize} for {fun}.


# A promise is kept.
promise
    {hero} promised {elder = elder} some {spice = flavour} {gift = dish} before {deadline = deadline}. \
{tempted}/{kept} {thanked}

deadline(name, again)
    the clock struck {hour = number} | the clock struck {hour}
    the sun went down | the sun went down
    the bells rang | the bells rang
    the last boat left | the last boat left
    the owls woke up | the owls woke up

tempted
    "How about {fun}?" asked {friend}. But a promise is a promise.
    {Hero.they} met {a creature} with {a thing}, and did not ask why.
    {A creature} smelled it and came along, with {a creature}.

hindered
    But {obstacle = obstacle}. So {obstacle.cure}.
    Then {obstacle = obstacle}, and {obstacle.cure}.

obstacle(name, cure)
    {a look} goose sat on the bridge | {hero.they} sang of {fun} until it moved
    the path was one long puddle | {hero.they} crossed it on {number} {thing}s
    the gate was locked | {hero.they} climbed over it with {a thing}
    {a look} tree lay across the road | {hero.they} crawled under it like {a creature}
    the signpost pointed at the sky | {hero.they} asked {a creature}
    {number} {look} sheep filled the lane | {hero.they} counted them until they slept
    the ferry was full of {noun}s | {hero.they} sat on the biggest one
    {a look} dog barked behind the hedge | {hero.they} barked back {number} times
    the bag broke | {hero.they} mended it with {a thing}
    the hill was too steep | {hero.they} thought of {taste} {treat} and kept going

kept
    {Hero.they} came just as {deadline.again}, with {a thing} as well.
    Just as {deadline.again}, {elder} got the {spice} {gift} and clapped {number} times.
    "Is that {spice} {gift}?" {said} {elder}. At that moment {deadline.again}.

thanked
    It was enough for {number}, so {friend} came too, with {a thing}.
    {Hero} got {a thing} for it, and {friend} got {a thing} for waiting.
    "You kept your word," {said} {elder}. "Now keep this {thing}."


# A journey in the weather.
journey
    {hero} set out to visit {elder = elder}, {number} miles away. {packed} {hindered} {sheltered}/{arrived} {rested}

packed
    {Hero.they} packed {a thing}, {a thing} and some {food}.
    "Take {a thing}," {said} {friend}, "{a thing} and some {food}."
    {Friend} waved with {a thing} until {hero.they} {hero.was} {number} hills away.

sheltered
    All the way {weather.now}, but {hero} sang about {fun}.
    And because {weather.now}, {hero.they} rested {spot} with {a creature}.
    And because {weather.now}, {hero.they} wore {a thing} as a hat.

arrived
    "Just in time," {said} {elder}, "for {food}, {food} and {fun}."
    {Elder} opened the door with {a thing} and some {food}.
    Under {a look} lamp sat {elder}, {fun}.

rested
    They spent {number} hours {fun} and {fun}.
    Soon there were dry socks, {food} and tales of {number} {look} {monster}s.
    "How is {friend}?" {said} {elder}. "Like {a thing}," {said} {hero}.


# A fair trade, with three things that change hands.
trade
    {hero} took {a shine = look} {have = noun} to the market. {offered} {refused}/{chained} {settled}

offered
    {Elder = elder} was selling {a shade = look} {want = noun}, just right for {fun}.
    Between {a thing} and {a thing}, {elder = elder} had {a shade = look} {want = noun}.
    "What {a shade = look} {want = noun}," {said} {hero} to {elder = elder}. "I need it for {fun}."

refused
    "For {a look} {other = noun} and {number} coins," {said} {elder}.
    "I have {number} {have}s," {said} {elder}. "Bring me {a look} {other = noun}."
    "Bring me {food} and {a look} {other = noun}," {said} {elder}.

chained
    Now, {friend} kept such {a other} {spot}, next to {a thing}.
    Luckily {friend} had won {a other} at the fair by {fun}.
    {Hero} asked {a creature} and then {friend}, who had {a other} {spot}.

settled
    So {friend} got the {have}, {elder} the {other}, and {hero} the {shade} {want}.
    The {shine} {have} went to {friend}, the {other} to {elder}, the {want} to {hero}.
    {Friend} hugged the {have}, {elder} the {other}, and {hero} the {shade} {want}.


# A cake that is not quite a cake.
cake
    {hero} baked {a spice = flavour} cake for {friend}, but needed {lacking = ingredient}. \
{borrowed} {baked}/{tasted} {danced}

ingredient
    butter | flour | sugar | salt | milk | cream | yeast | oil

borrowed
    {Elder = elder} had {lacking}. "But first, please {chore}," {elder.they} {said}.
    "You may have {lacking}," {said} {elder = elder}, "if you {chore} and {chore}."
    {Elder = elder} traded it for {a thing} and {a thing}.

chore
    peel {number} potatoes | wash the {creature} | find my {thing} | paint the {noun}s | polish {number} spoons
    mend my {thing} | pick the {flavour} beans | carry {number} {noun}s | catch the {creature} | wind the clocks

baked
    The cake was as flat as {a thing}, with {number} candles.
    The cake leaned to the left, so {hero.they} propped it up with {a thing}.
    {A thing} fell into the bowl, and {a creature} stirred it in.

tasted
    "It looks like {a thing}," {said} {friend}, "but it tastes of {spice} and {flavour}."
    {Friend} ate {number} pieces, and {a creature} ate {number}.
    {Friend} took {number} pieces and {deed} like {a air} {image}.

danced
    Then they tried {fun}, but everybody was too full.
    There were presents too, {a thing}, {a thing} and {a thing}.
    {Elder} played {a look} trumpet, and {a creature} danced on {a thing}.


# A strange noise.
noise
    {hero} heard a noise {spot}. {sounded} {guessed} {armed}/{revealed} {welcomed}

sounded
    It went {sound}, {sound} and {sound}, and then it smelled of {food}.
    {Sound}, it went, and after {number} seconds, {sound}.
    It sounded like {a thing} in {a thing}.

sound
    bump | crunch | squeak | plop | rattle | hoo | tick | scratch | clank | sniff | thud | burp

guessed
    "It is {a fear = monster}," {sadly} {friend}, "or {a look} {monster}."
    "It is {a look} {fear = monster}," {sadly} {friend}, "and it wants {food}."

armed
    {Hero} took {a thing}, {friend} took {a thing}, and they crept closer.
    They counted to {number} and threw {a thing}.
    {Hero} went ahead with {a thing}, {a thing} and some {food}.

revealed
    It was only {a look} {beast = animal} with {a thing}.
    It was no {fear}. It was {a look} {beast = animal}, {fun}.
    It was {a look} {beast = animal}, eating {food} from {a thing}.

welcomed
    "What {a look} {fear}," {said} {hero}, and gave the {beast} {a thing}.
    They gave the {beast} some {food}, and it stayed until {weekday}.
    Now the {beast} comes every {weekday} and brings {a thing}.


# A small animal finds its way home.
stray
    {hero} found {a shade = look} {beast = animal} {spot}. {shivered} {fed}/{owned} {rewarded}

shivered
    "Are you lost?" asked {hero}. The {beast} hid behind {a thing}.
    It had {a look} ribbon around its neck and {a thing} on its back.
    It had been there for {number} days, and it was afraid of {thing}s.

fed
    It ate {food}, then {food}, and then {a thing}.
    {Friend} brought some {food} and {a thing} to sleep in.
    {Hero} and {friend} drew {number} posters, with {a shade} {beast} on {a thing}.

owned
    "There you are!" {said} {elder = elder}. "I looked {spot} and {spot}."
    Then its owner, {elder = elder}, ran up with {a thing} and some {food}.
    At last {elder = elder} came by. "My {shade} {beast}!" {elder.they} {said}. "I have {food} for it."

rewarded
    On {weekday} there was {a thing} at the door, full of {thing}s.
    Now the {beast} visits every {weekday}, and they go {fun}.
    "Now it needs a name," {said} {elder}. So it was called {Look} {Noun}, and did not mind.


# A machine that works the second time.
machine
    {hero} and {friend} built {a craft = craft} from {a thing}, {a thing} and {number} nails. {failed} {doubted}/\
{mended} {used}

craft(name, flop, feat)
    raft | it sank after {number} minutes | it floated as far as the {landmark}
    cart | it lost {a look} wheel | it rolled faster than {a creature}
    flying machine | it flew into {a thing} | it hopped over {a look} hedge
    robot | it bowed and lost {a thing} | it made some {food}
    bridge | it broke under {a creature} | it carried {number} {animal}s
    soup machine | it shot {noun}s at the {landmark} | it cooked {food} for {number} people
    swing | it threw {a creature} into the {landmark} | it swung as high as {number} {animal}s

failed
    But at the first try {craft.flop}.
    They showed it to {elder = elder}, and at once {craft.flop}.
    {A creature} came to see it. Then {craft.flop}.

doubted
    "Let us try {fun} instead," {sadly} {friend}.
    "It needs {a thing}," {said} {hero}, "and maybe {a thing}."
    {Friend} kicked {a thing}. {Hero} drew a plan with {number} arrows.

mended
    They took out {a thing} and put in {a thing}.
    For {number} days they hammered, and lunch was {food}.
    {A creature} looked at it {spot} and saw what was wrong.

used
    On {weekday} they tried again, and {craft.feat}.
    And this time {craft.feat}. "That beats {fun}," {said} {hero}.
    Then {craft.feat}, and {friend} {deed} like {a air} {image}.


# --- ending ----------------------------------------------------------------------------------------------------------

ending
    (2) At dusk {weather.after}, and supper was {taste} {treat}.
    (2) Then {weather.after}, and {hero} ate {taste} {treat} with {a thing}.
    (2) By bedtime {weather.after}, and {a creature} ate the {taste} {treat}.
    (2) That night {weather.after}, and {hero} dreamed of {number} {thing}s and {a creature}.
    (3) "Good night, {friend}," {said} {hero}. "Good night, {hero}," {said} {friend}.
    "Tomorrow," {said} {hero}, "{fun}." "And {fun}," {said} {friend}.
    {Friend} gave {hero} {a thing}, and {hero} gave {friend} {a thing}.
    (2) {Mood.praise}, and {hero} {hero.was} {mood} to the end.
"""
