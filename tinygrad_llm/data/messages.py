"""Short messages of two classes, ham and spam, drawn from patterns: a labelled set that ships as a generator.

Both classes share words, names and numbers: there is no word that gives a message away alone. A share of the messages
is of a kind that the other class writes too, so that it takes the whole message to tell.
"""

import re
from random import Random

CLASSES = ("ham", "spam")

WORDS = {
    slot: words.split("|")
    for slot, words in {
        "name": "Anna|Ben|Carla|David|Emma|Felix|Grace|Hugo|Ida|Jonas|Kim|Leo|Mara|Noah|Olga|Paul|Rosa|Sam|Tina|Wim",
        "place": "the station|the cinema|my place|the office|the market|school|the gym|the library|the cafe",
        "time": "at six|tonight|tomorrow|at noon|after work|on Sunday|this evening|at half past four|now|today",
        "thing": "phone|keys|jacket|laptop|ticket|book|bag|charger|umbrella|camera",
        "gift": "a phone|a holiday for two|500 pounds|a laptop|concert tickets|a camera|a gift card|1000 in cash",
        "shop": "MobileNow|TopTones|PrizeLine|QuickCash|StarDeals|CityLoans|SunTravel",
        "number": "87121|08000930705|83355|62468|09061701461|86688",
        "word": "WIN|YES|GO|CASH|CALL|STAR",
        "hello": "Hi|Hey|Hello|Hiya|Morning",
        "bye": "See you|Love|Take care|Cheers|Later|xx",
    }.items()
}
PATTERNS = {
    "ham": (
        "{hello} {name}, are you at {place} {time}?",
        "I left my {thing} at {place}, can you bring it {time}?",
        "{hello}, running late, see you {time} at {place}. {bye}",
        "Did you win the game {time}? Call me when you are free. {bye} {name}",
        "{name} won {gift} at work, can you believe it?",
        "Free {time}? We are at {place} with {name}",
        "Please call {name} back, the number is {number}",
        "Ok, I will text you {time}. {bye}",
        "My new {thing} is here! Thanks for the gift, {name}",
        "Sorry, no cash on me, can you pay and I give it back {time}?",
        "The prize for the best cake goes to {name}, see you {time}",
        "Don't forget the {thing}, and reply when you are at {place}",
        "Your {thing} is ready, {name} says you can collect it {time}",
        "Are we still going to {place}? {name} wants to know {time}",
    ),
    "spam": (
        "{hello} {name}, you won {gift}! Call {number} {time} to claim it",
        "Free {gift} for you: text {word} to {number} {time}",
        "{shop}: your {thing} prize is ready, reply {word} to {number}",
        "Call {number} {time}, {gift} is waiting. {shop}",
        "Last chance {time}! Reply {word} and win {gift}. Stop? Text STOP to {number}",
        "{hello}, your number was drawn {time}: collect {gift} at {place}, call {number}",
        "{name} sent you a message on {shop}. To read it text {word} to {number}",
        "Need cash {time}? {shop} pays at once, call {number}",
        "Your {thing} order was not paid, call {number} {time} to keep it. {shop}",
        "{shop} gives you {gift}, no catch. Reply {word} {time}",
        "Are you free {time}? Chat with {name}, text {word} to {number}",
        "Sorry, we missed you {time}. Your {thing} is at {place}, pay at {shop} {number}",
    ),
}


def generate(seed: int, count: int) -> list[dict[str, str]]:
    """Records with the keys label and text, about as many of one class as of the other; the same for a seed everywhere.

    Raises: ValueError for a negative number.
    """
    if seed < 0 or count < 0:
        raise ValueError(f"messages.generate: seed {seed} and count {count} must not be negative")
    draw = Random(seed).random

    def chosen(options: list[str] | tuple[str, ...]) -> str:
        return options[int(draw() * len(options))]

    def message(label: str) -> str:
        text = re.sub(r"\{(\w+)\}", lambda slot: chosen(WORDS[slot[1]]), chosen(PATTERNS[label]))
        habit = draw()  # of writing: in lower case, without marks, loud
        if habit < 0.2:
            text = text.lower()
        elif habit < 0.3:
            text = re.sub(r"[,.!?]", "", text)
        elif habit < 0.35:
            text = text.upper()
        return text

    return [{"label": label, "text": message(label)} for label in (chosen(CLASSES) for _ in range(count))]
