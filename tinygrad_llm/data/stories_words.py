"""The people, places and things of the stories, in the notation of `stories_notation`. To add to them, add a row.

What belongs together stands in one row: a person and the pronouns, a toy and its verbs, the weather with its month and
how it ends. A row must not begin another row of its table ("pea" would begin "pear"), a noun takes a plain -s, a dish
has no plural, and "a" or "an" goes by the first letter (so no "honest", no "unicorn").
"""

WORDS = """
# --- who -------------------------------------------------------------------------------------------------------------

person(name, intro, pal, they, them, their, was, i, am, my)
    Mia; Nora; Ida; Lucy; Zoe; Tess; Ruby; Greta \
        | {a mood = mood} girl named {.name} | friend {.name} | she | her | her | was | I | I am | my
    Tom; Ben; Otto; Max; Leo; Sam; Finn; Hugo \
        | {a mood = mood} boy named {.name} | friend {.name} | he | him | his | was | I | I am | my
    Bramble; Dora | {a mood = mood} fox named {.name} | friend {.name} | she | her | her | was | I | I am | my
    Waldo; Gus | {a mood = mood} badger named {.name} | friend {.name} | he | him | his | was | I | I am | my
    Pip and Pop; Bo and Jo \
        | two {mood = mood} mice named {.name} | friends {.name} | they | them | their | were | we | we are | our
    Hip and Hop; Ding and Dong \
        | two {mood = mood} piglets named {.name} | friends {.name} | they | them | their | were | we | we are | our

mood(name, praise)
    brave | Brave people shake a little too
    shy | Shy people see the most
    curious | Curious people never run out of questions
    patient | Patient people get there in the end
    clever | Clever people ask for help
    stubborn | Stubborn people try once more
    cheerful | Cheerful people are good company in the rain
    dreamy | Dreamy people find what others walk past
    careful | Careful people break fewer eggs
    lively | Lively people are never late for supper
    loyal | Loyal people always come back
    gentle | Gentle people are trusted by cats

elder(name, they)
    Grandmother; Aunt Rosa; Mrs. Plum; the baker; Granny Fig; the teacher; Queen Ann; Lady Bell | she
    Grandfather; Uncle Oskar; Mr. Button; the miller; the postman; Captain Cod; Doctor Finch; the smith | he

deed
    laughed | sneezed | snored | sang | walked | whistled | danced | talked | hummed | ran | yawned | smiled | giggled
    coughed | marched | blinked | smelled | shone | shouted | limped

creature
    {look} {animal}
    {size} {look} {animal}

animal
    gull | hedgehog | goat | magpie | donkey | frog | kitten | hen | squirrel | rabbit | duck | turtle | foal | lamb
    parrot | piglet | beaver | otter | swan | mole | camel | pigeon | hamster | crab | weasel | snail | penguin | seal
    raven | llama | toad | zebra

monster
    dragon | pirate | ghost | bear | giant | robber | troll | wizard | goblin | ogre


# --- where and when --------------------------------------------------------------------------------------------------

home
    in {a look} {building} {beside} the {landmark}

building
    mill | cottage | tower | houseboat | barn | castle | lighthouse | tent | inn | palace | cave | wagon | cellar | hut
    garage | bus | stable | shop

beside
    by | near | behind | opposite | beyond

landmark
    sea | river | forest | station | market | church | bridge | harbour | school | park | pond | lake | canal | bakery
    zoo | museum | fountain | library | dump

spot
    {under} the {look} {furniture}

under
    under | behind | beside | near | on top of | in front of

furniture
    bed | stove | barrel | stairs | cupboard | shed | rose bush | boat | well | table | tree | piano | bench | cart
    haystack | gate | bathtub | chimney | sofa | fridge | desk | carpet | curtain

weather(name, month, now, after)
    rainy | April | rain drummed on the roofs | the rain stopped
    windy | March | the wind took every hat | the wind went to sleep
    foggy | November | the fog was like soup | the fog drifted away
    stormy | October | thunder rolled around | the storm grumbled off
    grey | February | clouds sat on the chimneys | the clouds went home
    snowy | January | snow fell on every nose | the snow stopped
    frosty | December | the grass crackled like toast | the frost melted
    sunny | May | the sun shone on every pond | the sun went down
    hot | July | even the bees walked | the air grew cool

weekday
    Monday | Tuesday | Wednesday | Thursday | Friday | Saturday | Sunday

when
    (2) One {weather = weather} {weekday},
    One {weather = weather} {weekday} in {weather.month},
    On {a weather = weather} {weekday} in {weather.month},
    It was {a weather = weather} {weekday}, {weather.now}, and


# --- what ------------------------------------------------------------------------------------------------------------

look
    round | muddy | wooden | crooked | shiny | dusty | rusty | painted | ugly | beautiful | bent | sticky | noisy
    lonely | red | blue | green | yellow | purple | orange | striped | spotted | silver | golden | pink | brown
    white | black | wet | soft | warm | hairy | famous | secret | strange | lazy | lucky | funny | cheap | royal
    wobbly | flat | square | cold | dirty | clean | frozen | magic | smelly | furry | polite | modern | rotten | empty
    hollow | loose | broken | salty | velvet

size
    small | old | enormous | tiny | fat | thin | long | little | short | wide | huge | tall | young | new | narrow
    heavy

noun
    spoon | turnip | candle | bucket | feather | bell | button | ladder | clock | cushion | pumpkin | basket | mirror
    trombone | pancake | broom | flowerpot | pillow | saucepan | rope | wheel | jar | stool | flute | cabbage | bottle
    map | coin | lamp | doorknob | shoe | hammer | egg | apron | kettle | carrot | spade | blanket | stamp | pencil
    nail | hook | cork | sausage | onion | cucumber | pebble | wig | rocket | zipper | violin | tuba | bone | vase
    melon | comb | crown | envelope | helmet | jacket | key | sponge | oar | plug | radio | raisin | saddle | shell
    towel | tulip | wallet | chain | crate | fork | globe | glove | plank | sledge

thing
    {look} {noun}
    {size} {look} {noun}

toy(name, they, them, was, is)
    kite; drum; whistle; umbrella; lantern; teapot; hat; ball; trumpet; scarf | it | it | was | is
    mittens; boots; socks; marbles; ribbons; skates | they | them | were | are

food
    {flavour} {dish}

flavour
    plum | onion | honey | cherry | nut | carrot | ginger | apple | pear | mint | lemon | raspberry | bean | cinnamon
    mushroom | chocolate | potato | banana | turnip | radish

dish
    cake | soup | bread | pie | jam | custard | pudding | porridge | toast | cheese | salad | stew

fun
    {art} {thing}s

art
    painting | collecting | counting | juggling | drawing | polishing | hiding | mending | stacking | selling
    inventing | racing | kicking | sorting | washing | knitting | swapping | burying | tickling | naming | throwing
    folding | cooking | fixing

number
    two | three | four | five | six | seven | eight | nine | ten | eleven | twelve

said
    said | cried | laughed | whispered | called | sang

sadly
    sighed | sniffed | mumbled | whispered | sobbed | muttered
"""
