"""The phrasebook says what it means: sentences written by hand, mistakes in tables, splits kept apart.

The tests of every word in every form, and of a mistake in every ninth line, are marked slow.
"""
import random
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, product
from pathlib import Path

import pytest

from minispec import UserError
from minispec.corpora import Corpus, grammar, open_corpus, phrasebook, write_phrasebook
from minispec.corpora.grammar import LEXICON, Clause, NounPhrase, codes, language
from minispec.corpora.languages import family
from minispec.corpora.phrasebook import KINDS, draw_clause, sentences
from minispec.data import read_lines


def the(noun, adjective='', owner=None):
    return NounPhrase(noun, 'sg', 'the', adjective, owner)


def a(noun, adjective=''):
    return NounPhrase(noun, 'sg', 'a', adjective)


def several(determiner, noun, adjective=''):
    return NounPhrase(noun, 'pl', determiner, adjective)


I, WE = NounPhrase('I', 'sg', 'pronoun'), NounPhrase('we', 'pl', 'pronoun')

MEANINGS = [
    Clause('statement', the('woman', 'old'), 'see', several('two', 'dog', 'small'), place='garden'),
    Clause('statement', I, 'eat', a('apple', 'fresh'), place='station'),
    Clause('statement', several('the', 'girl'), 'show', several('three', 'book', 'old'), the('doctor')),
    Clause('past', several('the', 'boy'), 'eat', several('five', 'pear', 'small'), place='river'),
    Clause('past', the('woman'), 'give', a('flower', 'red'), the('baker')),
    Clause('past', the('horse', 'black'), 'sleep', place='house'),
    Clause('negative', the('girl'), 'read', the('magazine', 'old')),
    Clause('negative', the('dog', 'white', the('farmer', 'old')), 'see', the('cat', owner=the('neighbor', 'young'))),
    Clause('question', the('grandmother'), 'help', a('child', 'small')),
    Clause('question', several('the', 'bird'), 'find', the('key'), place='beach'),
    Clause('where', several('the', 'man', 'young'), 'work'),
    Clause('modal', WE, 'buy', the('bicycle', 'green'), modal='want', place='market'),
    Clause('modal', the('teacher'), 'find', several('the', 'horse'), modal='can', place='school'),
    Clause('time', the('grandfather', 'kind'), 'sell', several('two', 'house', 'white'),
           time='every Sunday', place='village'),
    Clause('time', I, 'cry', time='every morning', place='house'),
    Clause('says', the('farmer'), 'say', said=Clause('said', the('girl'), 'eat', a('cake'), place='street')),
    Clause('says', several('the', 'child'), 'know',
           said=Clause('said', the('man'), 'draw', the('boat', owner=the('boy', 'small')))),
    Clause('copula', the('car', owner=the('woman', 'kind')), adjective='old'),
    Clause('copula', several('the', 'boy'), adjective='kind'),
]
# What each of them is in each language, written by hand.
SAID = {
    'en': '''The old woman sees two small dogs in the garden.
             I eat a fresh apple at the station.
             The girls show the doctor three old books.
             The boys ate five small pears by the river.
             The woman gave the baker a red flower.
             The black horse slept behind the house.
             The girl does not read the old magazine.
             The old farmer's white dog does not see the young neighbor's cat.
             Does the grandmother help a small child?
             Do the birds find the key on the beach?
             Where do the young men work?
             We want to buy the green bicycle at the market.
             The teacher can find the horses at school.
             Every Sunday the kind grandfather sells two white houses in the village.
             Every morning I cry behind the house.
             The farmer says that the girl eats a cake in the street.
             The children know that the man draws the small boy's boat.
             The kind woman's car is old.
             The boys are kind.''',
    'de': '''Die alte Frau sieht zwei kleine Hunde im Garten.
             Ich esse einen frischen Apfel am Bahnhof.
             Die Mädchen zeigen dem Arzt drei alte Bücher.
             Die Jungen haben fünf kleine Birnen am Fluss gegessen.
             Die Frau hat dem Bäcker eine rote Blume gegeben.
             Das schwarze Pferd hat hinter dem Haus geschlafen.
             Das Mädchen liest die alte Zeitschrift nicht.
             Der weiße Hund des alten Bauern sieht die Katze des jungen Nachbarn nicht.
             Hilft die Großmutter einem kleinen Kind?
             Finden die Vögel den Schlüssel am Strand?
             Wo arbeiten die jungen Männer?
             Wir wollen das grüne Fahrrad auf dem Markt kaufen.
             Der Lehrer kann die Pferde in der Schule finden.
             Jeden Sonntag verkauft der freundliche Großvater zwei weiße Häuser im Dorf.
             Jeden Morgen weine ich hinter dem Haus.
             Der Bauer sagt, dass das Mädchen einen Kuchen auf der Straße isst.
             Die Kinder wissen, dass der Mann das Boot des kleinen Jungen zeichnet.
             Das Auto der freundlichen Frau ist alt.
             Die Jungen sind freundlich.''',
    'nl': '''De oude vrouw ziet twee kleine honden in de tuin.
             Ik eet een verse appel op het station.
             De meisjes tonen de dokter drie oude boeken.
             De jongens hebben vijf kleine peren bij de rivier gegeten.
             De vrouw heeft de bakker een rode bloem gegeven.
             Het zwarte paard heeft achter het huis geslapen.
             Het meisje leest het oude tijdschrift niet.
             De witte hond van de oude boer ziet de kat van de jonge buurman niet.
             Helpt de grootmoeder een klein kind?
             Vinden de vogels de sleutel op het strand?
             Waar werken de jonge mannen?
             Wij willen de groene fiets op de markt kopen.
             De leraar kan de paarden op school vinden.
             Elke zondag verkoopt de vriendelijke grootvader twee witte huizen in het dorp.
             Elke ochtend huil ik achter het huis.
             De boer zegt dat het meisje een taart op straat eet.
             De kinderen weten dat de man de boot van de kleine jongen tekent.
             De auto van de vriendelijke vrouw is oud.
             De jongens zijn vriendelijk.''',
    'sv': '''Den gamla kvinnan ser två små hundar i trädgården.
             Jag äter ett färskt äpple på stationen.
             Flickorna visar läkaren tre gamla böcker.
             Pojkarna åt fem små päron vid floden.
             Kvinnan gav bagaren en röd blomma.
             Den svarta hästen sov bakom huset.
             Flickan läser inte den gamla tidskriften.
             Den gamla bondens vita hund ser inte den unga grannens katt.
             Hjälper mormodern ett litet barn?
             Hittar fåglarna nyckeln på stranden?
             Var arbetar de unga männen?
             Vi vill köpa den gröna cykeln på marknaden.
             Läraren kan hitta hästarna i skolan.
             Varje söndag säljer den vänliga morfadern två vita hus i byn.
             Varje morgon gråter jag bakom huset.
             Bonden säger att flickan äter en tårta på gatan.
             Barnen vet att mannen ritar den lilla pojkens båt.
             Den vänliga kvinnans bil är gammal.
             Pojkarna är vänliga.''',
    'fr': '''La vieille femme voit deux petits chiens dans le jardin.
             Je mange une pomme fraîche à la gare.
             Les filles montrent trois vieux livres au médecin.
             Les garçons ont mangé cinq petites poires au bord de la rivière.
             La femme a donné une fleur rouge au boulanger.
             Le cheval noir a dormi derrière la maison.
             La fille ne lit pas le vieux magazine.
             Le chien blanc du vieux fermier ne voit pas le chat du jeune voisin.
             Est-ce que la grand-mère aide un petit enfant ?
             Est-ce que les oiseaux trouvent la clé sur la plage ?
             Où travaillent les jeunes hommes ?
             Nous voulons acheter le vélo vert au marché.
             Le professeur peut trouver les chevaux à l'école.
             Chaque dimanche, le gentil grand-père vend deux maisons blanches dans le village.
             Chaque matin, je pleure derrière la maison.
             Le fermier dit que la fille mange un gâteau dans la rue.
             Les enfants savent que l'homme dessine le bateau du petit garçon.
             La voiture de la gentille femme est vieille.
             Les garçons sont gentils.''',
    'es': '''La mujer vieja ve dos perros pequeños en el jardín.
             Como una manzana fresca en la estación.
             Las chicas le muestran tres libros viejos al médico.
             Los chicos comieron cinco peras pequeñas junto al río.
             La mujer le dio una flor roja al panadero.
             El caballo negro durmió detrás de la casa.
             La chica no lee la revista vieja.
             El perro blanco del granjero viejo no ve al gato del vecino joven.
             ¿Ayuda la abuela a un niño pequeño?
             ¿Encuentran los pájaros la llave en la playa?
             ¿Dónde trabajan los hombres jóvenes?
             Queremos comprar la bicicleta verde en el mercado.
             El profesor puede encontrar a los caballos en la escuela.
             Todos los domingos el abuelo amable vende dos casas blancas en el pueblo.
             Todas las mañanas lloro detrás de la casa.
             El granjero dice que la chica come un pastel en la calle.
             Los niños saben que el hombre dibuja el barco del chico pequeño.
             El coche de la mujer amable es viejo.
             Los chicos son amables.''',
    'it': '''La vecchia donna vede due piccoli cani in giardino.
             Mangio una mela fresca alla stazione.
             Le ragazze mostrano tre vecchi libri al medico.
             I ragazzi hanno mangiato cinque piccole pere vicino al fiume.
             La donna ha dato un fiore rosso al panettiere.
             Il cavallo nero ha dormito dietro la casa.
             La ragazza non legge la vecchia rivista.
             Il cane bianco del vecchio contadino non vede il gatto del giovane vicino.
             La nonna aiuta un piccolo bambino?
             Gli uccelli trovano la chiave sulla spiaggia?
             Dove lavorano i giovani uomini?
             Vogliamo comprare la bicicletta verde al mercato.
             Il maestro può trovare i cavalli a scuola.
             Ogni domenica il nonno gentile vende due case bianche nel villaggio.
             Ogni mattina piango dietro la casa.
             Il contadino dice che la ragazza mangia una torta per strada.
             I bambini sanno che l'uomo disegna la barca del piccolo ragazzo.
             La macchina della donna gentile è vecchia.
             I ragazzi sono gentili.''',
    'cs': '''Stará žena vidí dva malé psy na zahradě.
             Jím čerstvé jablko na nádraží.
             Dívky ukazují lékaři tři staré knihy.
             Chlapci snědli pět malých hrušek u řeky.
             Žena dala pekaři červenou květinu.
             Černý kůň spal za domem.
             Dívka nečte starý časopis.
             Bílý pes starého sedláka nevidí kočku mladého souseda.
             Pomáhá babička malému dítěti?
             Nacházejí ptáci klíč na pláži?
             Kde pracují mladí muži?
             Chceme koupit zelené kolo na trhu.
             Učitel může najít koně ve škole.
             Každou neděli milý dědeček prodává dva bílé domy ve vesnici.
             Každé ráno pláču za domem.
             Sedlák říká, že dívka jí dort na ulici.
             Děti vědí, že muž kreslí loď malého chlapce.
             Auto milé ženy je staré.
             Chlapci jsou milí.''',
    'pl': '''Stara kobieta widzi dwa małe psy w ogrodzie.
             Jem świeże jabłko na dworcu.
             Dziewczynki pokazują lekarzowi trzy stare książki.
             Chłopcy zjedli pięć małych gruszek nad rzeką.
             Kobieta dała piekarzowi czerwony kwiat.
             Czarny koń spał za domem.
             Dziewczynka nie czyta starego czasopisma.
             Biały pies starego rolnika nie widzi kota młodego sąsiada.
             Czy babcia pomaga małemu dziecku?
             Czy ptaki znajdują klucz na plaży?
             Gdzie pracują młodzi mężczyźni?
             Chcemy kupić zielony rower na targu.
             Nauczyciel może znaleźć konie w szkole.
             W każdą niedzielę miły dziadek sprzedaje dwa białe domy we wsi.
             Każdego ranka płaczę za domem.
             Rolnik mówi, że dziewczynka je ciasto na ulicy.
             Dzieci wiedzą, że mężczyzna rysuje łódź małego chłopca.
             Samochód miłej kobiety jest stary.
             Chłopcy są mili.''',
    'ru': '''Старая женщина видит двух маленьких собак в саду.
             Я ем свежее яблоко на вокзале.
             Девочки показывают врачу три старые книги.
             Мальчики съели пять маленьких груш у реки.
             Женщина дала пекарю красный цветок.
             Чёрная лошадь спала за домом.
             Девочка не читает старый журнал.
             Белая собака старого фермера не видит кошку молодого соседа.
             Бабушка помогает маленькому ребёнку?
             Птицы находят ключ на пляже?
             Где работают молодые мужчины?
             Мы хотим купить зелёный велосипед на рынке.
             Учитель может найти лошадей в школе.
             Каждое воскресенье добрый дедушка продаёт два белых дома в деревне.
             Каждое утро я плачу за домом.
             Фермер говорит, что девочка ест торт на улице.
             Дети знают, что мужчина рисует лодку маленького мальчика.
             Машина доброй женщины старая.
             Мальчики добрые.''',
}


@pytest.mark.parametrize('code', SAID)
def test_every_construction_as_written_by_hand(code):
    expected = [line.strip() for line in SAID[code].splitlines()]
    assert [language(code).say(meaning) for meaning in MEANINGS] == expected


def test_a_noun_can_change_its_class_in_the_plural():
    """Czech dítě is neuter and děti feminine: without that it would be *malá děti*."""
    for phrase, said in (the('child', 'small'), 'Malé dítě spí.'), (several('the', 'child', 'small'), 'Malé děti spí.'):
        assert language('cs').say(Clause('statement', phrase, 'sleep')) == said


@pytest.mark.slow
@pytest.mark.parametrize('code', codes())
def test_no_form_is_missing(code):
    """Say every noun, adjective and verb in every form that a drawn meaning can ask for; an error names the form."""
    table, say = language('en').sections, language(code).say
    nouns = {kind: [noun for noun, row in table['nouns'].items() if kind in row['class'].split()]
             for kind in ('person', 'animal', 'food', 'text', 'thing', 'large')}
    subjects = [I, WE, *(NounPhrase(noun, number, 'the') for kind in ('person', 'animal') for noun in nouns[kind]
                         for number in ('sg', 'pl'))]
    buy = {'person': 'see', 'animal': 'see'}  # else: buy
    for kind, adjective in product(nouns, ['', *table['adjectives']]):
        for noun in nouns[kind]:
            if adjective and set(table['nouns'][noun]['class'].split()).isdisjoint(
                    table['adjectives'][adjective]['fits'].split()):
                continue
            verb = buy.get(kind, 'buy')
            say(Clause('negative', the('man'), verb, the(noun, adjective)))
            for number, determiner in [('sg', 'a'), ('sg', 'the')] + [('pl', x) for x in ('the', 'two', 'three', 'five')
                                                                      if kind != 'person']:
                say(Clause('statement', the('man'), verb, NounPhrase(noun, number, determiner, adjective)))
            for number in ('sg', 'pl') if kind != 'food' else ():
                subject = NounPhrase(noun, number, 'the', adjective, None if kind == 'person' else the('boy', 'small'))
                say(Clause('copula', subject._replace(adjective=''), adjective=adjective or 'old'))
                say(Clause('statement', subject, 'sleep'))
            if kind == 'person':
                say(Clause('statement', the('bird'), 'help', the(noun, adjective)))
                say(Clause('statement', the('bird'), 'help', a(noun, adjective)))
                say(Clause('past', the('bird'), 'give', the('apple', owner=the(noun, adjective)), the(noun, adjective)))
    for verb, row in table['verbs'].items():
        if row['frame'] not in ('intransitive', 'transitive', 'ditransitive'):
            continue
        slots = {} if row['frame'] == 'intransitive' else {'object': the('doctor' if verb == 'help' else 'apple')}
        slots |= {'recipient': the('boy')} if row['frame'] == 'ditransitive' else {}
        for subject in subjects:
            plain = Clause('statement', subject, verb, **slots)
            for place, time in product(table['places'], table['times']):
                say(plain._replace(kind='time', place=place, time=time))
            say(plain._replace(kind='negative'))
            for modal in ('want', 'can'):
                say(plain._replace(kind='modal', modal=modal))
            if subject not in (I, WE):
                for kind in ('past', 'question', *(['where'] if row['frame'] == 'intransitive' else [])):
                    say(plain._replace(kind=kind))
                for speaks in ('say', 'know'):
                    say(Clause('says', subject, speaks, said=plain._replace(kind='said')))


@pytest.fixture
def lexicon(tmp_path, monkeypatch):
    """A lexicon of English and German alone; lexicon(name, text) changes a table and says some sentences."""
    monkeypatch.setattr(grammar, 'LEXICON', tmp_path)
    texts = {name: (LEXICON / name).read_text(encoding='utf-8') for name in ('de.txt', 'en.txt')}

    def change(name, text):
        for other in texts:
            (tmp_path / other).write_text(text if other == name else texts[other], encoding='utf-8')
        for cached in (grammar.codes, grammar.language):
            cached.cache_clear()
        return list(islice(sentences(), 100))

    change.texts = texts
    yield change
    for cached in (grammar.codes, grammar.language):
        cached.cache_clear()


MISTAKES_BY_HAND = {  # table, old text, new text, beginning of the line that the error names, message
    'layout': [
        ('de.txt', 'wir\n', 'wir  uns\n', 'we ', 'we has 8 cells instead of 7'),
        ('de.txt', '\ndog  ', '\nman  ', 'man          m      Hund', 'man is there twice'),
        ('de.txt', '[frames]', '[frame]', '[frame]', r'\[frame\] has "frame" where there can only be adjectives, '),
        ('de.txt', '[language]', '', 'name ', 'name comes before the first section'),
        ('de.txt', '[times]', '[places]', '[places]\nevery', r'\[places\] is there twice'),
        ('de.txt', '8000', 'many', 'pairs', 'pairs should be a number of sentences, not many'),
        ('de.txt', 'manchmal', 'manchmal\n[spelling]\n(a  b', '(a', r'\(a is not a regular expression'),
        ('en.txt', 'frame ', 'farme ', 'see  ', 'see has no "frame"'),
    ],
    'words': [
        ('de.txt', 'Hund         Hund ', '-            Hund ', 'dog ', 'dog has no "nom"'),
        ('de.txt', '\ndog  ', '\ndgo  ', 'dgo', 'dgo is not in en.txt'),
        ('de.txt', '\ndog  ', '\n# dog  ', '[nouns]', r'\[nouns\] has no "dog"'),
        ('de.txt', '\ndog          m', '\ndog          k', 'dog ', 'dog has "k" where .* only be f, m, n'),
        ('de.txt', 'old    before', 'old    behind', 'old ', 'old has "behind" where there can only be before'),
        ('de.txt', 'old    before', 'old    after ', 'old ', 'old has "after" where there can only be before'),
    ],
    'rules': [
        ('de.txt', 'the nom m', 'the nmo m', 'the nmo m', 'the nmo m has "nmo" where .* nom, '),
        ('de.txt', 'sg nom  nom', 'sg nom  nmo', 'sg nom  nmo', 'sg nom has "nmo" where there can only be acc, '),
        ('de.txt', 'the gen m  des', '', '[determiners]', r'\[determiners\] has no line for .*gen m'),
    ],
    'templates': [
        ('de.txt', '{object}', '{objekt}', 'transitive ', 'transitive has "{objekt}", which nothing can fill'),
        ('de.txt', '{object}', '{object', 'transitive ', 'transitive has "{", which nothing can fill'),
        ('de.txt', '{object}', '{rest}', 'transitive ', 'transitive has "{rest}", which nothing can fill'),
        ('de.txt', 'intransitive  {place}', 'intransitive  {recipient}', 'intransitive ',
         'intransitive has "{recipient}", which nothing can fill'),
    ],
    'sense': [
        ('en.txt', 'person animal food text thing large  want', 'person animl  want', 'see ', 'see has "animl" where '),
        ('en.txt', 'big    before  thing large', 'big    before  ∅', 'big  ', 'big has "" where '),
        ('en.txt', 'text         ', 'food         ', '[nouns]',
         r'\[nouns\] has too few lines with text as their class'),
    ],
}


@pytest.mark.parametrize('mistakes', MISTAKES_BY_HAND.values(), ids=MISTAKES_BY_HAND)
def test_a_mistake_in_a_table_is_named_with_its_line(lexicon, mistakes):
    for name, old, new, at, message in mistakes:
        assert old in lexicon.texts[name]
        changed = lexicon.texts[name].replace(old, new)
        line = changed[:changed.index(f'\n{at}') + 1].count('\n') + 1
        with pytest.raises(UserError, match=rf'{name}, line {line}: {message}'):
            lexicon(name, changed)


def test_a_table_that_is_not_utf8_is_named_with_its_line(lexicon):
    (grammar.LEXICON / 'xx.txt').write_bytes('[language]\nname  Español\n'.encode('latin-1'))
    with pytest.raises(UserError, match='xx.txt, line 2: not UTF-8'):
        lexicon('de.txt', lexicon.texts['de.txt'])


MISTAKES = {
    'delete a line': lambda line, cells: '',
    'repeat a line': lambda line, cells: f'{line}\n{line}',
    'drop the first cell': lambda line, cells: '  '.join(cells[1:]),
    'drop the last cell': lambda line, cells: '  '.join(cells[:-1]),
    'misspell the first cell': lambda line, cells: line[1:],
    'misspell the last cell': lambda line, cells: line[:-1],
    'one space between cells': lambda line, cells: ' '.join(cells),
    'leave a cell out': lambda line, cells: '  '.join([*cells[:-1], '-']),
    'empty a cell': lambda line, cells: '  '.join([cells[0], '∅', *cells[2:]]),
    'swap two cells': lambda line, cells: '  '.join([*cells[1::-1], *cells[2:]]),
    'lose a bracket': lambda line, cells: line.replace('}', '', 1).replace(']', '', 1),
    'spoil a bracket': lambda line, cells: line.replace('{', '{x', 1).replace('[', '[(', 1),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', ['de.txt', 'en.txt'])
@pytest.mark.parametrize('mistake', MISTAKES)
def test_any_mistake_is_one_line_that_names_its_place(lexicon, name, mistake):
    """In every ninth line of a table: sentences come, or one UserError; never another exception."""
    lines = lexicon.texts[name].splitlines()
    told = 0
    for i in range(list(MISTAKES).index(mistake) % 9, len(lines), 9):
        if not lines[i] or lines[i].startswith('#'):
            continue
        changed = MISTAKES[mistake](lines[i], re.split(r'\s{2,}', lines[i]))
        try:
            lexicon(name, '\n'.join([*lines[:i], changed, *lines[i + 1:]]))
        except UserError as error:
            assert re.search(r'(de|en)\.txt, line [1-9]\d*: ', str(error)) and '\n' not in str(error)
            told += 1
    assert told


@pytest.mark.slow
def test_there_are_hundreds_of_thousands_of_meanings():
    """By the birthday rule, n draws among m equally likely meanings have about n^2 / 2m repetitions."""
    rng = random.Random(1)
    drawn = [clause for clause in (draw_clause(rng) for _ in range(40_000)) if clause.kind == 'says']
    n, repeated = len(drawn), len(drawn) - len(set(drawn))
    assert n ** 2 / (2 * max(repeated, 1)) > 200_000


def test_kinds_come_as_often_as_they_should():
    """Within four standard deviations of a binomial count."""
    rng, n = random.Random(1), 2000
    drawn = Counter(draw_clause(rng).kind for _ in range(n))
    for kind, weight in KINDS.items():
        share = weight / sum(KINDS.values())
        assert abs(drawn[kind] - n * share) < 4 * (n * share * (1 - share)) ** 0.5


def test_same_seed_same_sentences_and_none_twice():
    first = list(islice(sentences(seed=3), 300))
    assert first == list(islice(sentences(seed=3), 300)) != list(islice(sentences(seed=4), 300))
    for code in codes():
        assert len({said[code] for said in first}) == 300


def test_each_family_has_a_high_a_mid_and_a_low_resource_language():
    pairs = {}
    for code in codes():
        pairs.setdefault(family(code), set()).add(language(code).pairs)
    assert {name: sizes - {0} for name, sizes in pairs.items()} == dict.fromkeys(
        ['Germanic', 'Romance', 'Slavic'], {400, 2000, 8000})


def check_splits(corpus):
    """Both files of a task have equally many lines, and no sentence comes twice. Returns training sizes by task."""
    sizes = {}
    for task in corpus.tasks:
        lines = {split: [list(read_lines(path)) for path in corpus.files(split, task)]
                 for split in ('train', 'valid', 'test')}
        assert all(len(source) == len(target) for source, target in lines.values())
        assert len(lines['valid'][0]) == len(lines['test'][0]) == 200
        for side in (0, 1):
            sentences_of_side = [line for both in lines.values() for line in both[side]]
            assert len(set(sentences_of_side)) == len(sentences_of_side)
        sizes[task] = len(lines['train'][0])
    return sizes


def test_the_files_of_a_small_phrasebook(lexicon, tmp_path, monkeypatch):
    """Its splits share no sentence, each language has its own training size, and a second run draws nothing."""
    monkeypatch.chdir(tmp_path)
    german = lexicon.texts['de.txt']
    (tmp_path / 'nds.txt').write_text(german.replace('8000', '300'), encoding='utf-8')
    lexicon('de.txt', german.replace('8000', '900'))
    corpus = open_corpus('phrasebook')
    assert check_splits(corpus) == {'en-de': 900, 'de-en': 900, 'en-nds': 300, 'nds-en': 300}
    english = [list(read_lines(corpus.files('train', task)[0])) for task in ('en-de', 'en-nds')]
    assert english[1] == english[0][:300]
    even = open_corpus('phrasebook-even')
    assert check_splits(even) == dict.fromkeys(corpus.tasks, 600)  # the same text, divided evenly
    assert list(read_lines(even.files('train', 'en-nds')[0])) == english[0][:600]
    monkeypatch.setattr(phrasebook, 'sentences', None)
    assert open_corpus('phrasebook').tasks == open_corpus('phrasebook-even').tasks == corpus.tasks


@pytest.mark.slow
def test_the_files_of_the_phrasebook(tmp_path):
    sizes = check_splits(Corpus(write_phrasebook(tmp_path / 'phrasebook')))
    assert sizes == {task: language(code).pairs for code in codes() if code != 'en'
                     for task in (f'en-{code}', f'{code}-en')}


def test_two_first_runs_at_once_write_one_phrasebook(lexicon, tmp_path):
    """None is in another's way, and none leaves anything else behind."""
    lexicon('de.txt', lexicon.texts['de.txt'].replace('8000', '300'))
    data = tmp_path / 'data'
    with ThreadPoolExecutor(3) as pool:
        assert len(set(pool.map(write_phrasebook, [data / 'phrasebook'] * 3))) == 1
    assert [path.name for path in data.iterdir()] == ['phrasebook'] and len(list((data / 'phrasebook').iterdir())) == 7
    assert len((data / 'phrasebook' / 'train.en-de.de').read_text(encoding='utf-8').splitlines()) == 300
    (tmp_path / 'file').write_text('', encoding='utf-8')
    with pytest.raises(UserError, match='cannot make the folder .*File exists'):
        write_phrasebook(tmp_path / 'file')


@pytest.fixture
def outdated(lexicon, tmp_path):
    """A phrasebook whose table of German was edited since: 300 pairs are written, 200 are asked for."""
    lexicon('de.txt', lexicon.texts['de.txt'].replace('8000', '300'))
    folder = write_phrasebook(tmp_path / 'data' / 'phrasebook')
    lexicon('de.txt', lexicon.texts['de.txt'].replace('8000', '200').replace('Bäcker', 'Konditor'))
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def german(folder):
    return list(read_lines(folder / 'train.en-de.de'))


def test_the_phrasebook_is_written_anew_after_an_edit_of_a_table(outdated, tmp_path, capsys, monkeypatch):
    """Once, with a line that says so, and exactly as if there had been none."""
    capsys.readouterr()
    assert len(german(outdated)) == 300 and 'Bäcker' in ' '.join(german(outdated))
    write_phrasebook(outdated)
    out, err = capsys.readouterr()
    assert out == '' and err.count('\n') == 1 and f'note: {outdated} is not what the tables in {tmp_path} give' in err
    assert len(german(outdated)) == 200 and 'Konditor' in ' '.join(german(outdated))
    assert [path.name for path in outdated.parent.iterdir()] == ['phrasebook']
    assert contents(outdated) == contents(write_phrasebook(tmp_path / 'another'))
    monkeypatch.setattr(phrasebook, 'sentences', None)  # nothing is drawn again
    assert write_phrasebook(outdated) == outdated and capsys.readouterr().err == ''


@pytest.mark.parametrize('change', ['a table that is new', 'code', 'no fingerprint'])
def test_the_phrasebook_is_written_again_if_its_sources_change(lexicon, tmp_path, capsys, monkeypatch, change):
    folder = tmp_path / 'data' / 'phrasebook'
    lexicon('de.txt', lexicon.texts['de.txt'].replace('8000', '300'))
    expected = contents(write_phrasebook(folder))
    if change == 'a table that is new':
        (tmp_path / 'nds.txt').write_text(lexicon.texts['de.txt'].replace('8000', '100'), encoding='utf-8')
        grammar.codes.cache_clear()
    elif change == 'code':
        (tmp_path / 'grammar.py').write_text('# other code', encoding='utf-8')
        monkeypatch.setattr(grammar, '__file__', str(tmp_path / 'grammar.py'))
    else:  # as an older minispec left it
        (folder / 'fingerprint').unlink()
    write_phrasebook(folder)
    assert 'is written anew' in capsys.readouterr().err
    assert (folder / 'train.en-nds.nds').is_file() == (change == 'a table that is new')
    assert (contents(folder) == expected) == (change == 'no fingerprint')


def test_a_table_that_is_gone_takes_its_text_with_it(lexicon, tmp_path):
    lexicon('de.txt', lexicon.texts['de.txt'].replace('8000', '100'))
    expected = contents(write_phrasebook(tmp_path / 'without'))
    table = tmp_path / 'nds.txt'
    table.write_text(lexicon.texts['de.txt'].replace('8000', '100'), encoding='utf-8')
    grammar.codes.cache_clear()
    folder = write_phrasebook(tmp_path / 'phrasebook')
    assert (folder / 'train.en-nds.nds').is_file()
    (folder / 'notes.txt').write_text('mine', encoding='utf-8')
    table.unlink()
    grammar.codes.cache_clear()
    assert contents(write_phrasebook(folder)) == {**expected, 'notes.txt': b'mine'}


@pytest.mark.parametrize('step, n', [('draw_files', 0), ('write', 3)])
def test_what_breaks_off_is_made_by_the_next_run(outdated, lexicon, monkeypatch, step, n):
    """Also if the tables are by then again what the old text was made from."""
    function, calls = getattr(phrasebook, step), iter(range(n))

    def broken(*args):  # after n calls
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return function(*args)

    with monkeypatch.context() as patched:
        patched.setattr(phrasebook, step, broken)
        with pytest.raises(KeyboardInterrupt):
            write_phrasebook(outdated)
    lexicon('de.txt', lexicon.texts['de.txt'].replace('8000', '300'))
    assert contents(write_phrasebook(outdated)) == contents(write_phrasebook(outdated.with_name('another')))


def test_a_phrasebook_that_cannot_be_written_is_said(outdated, monkeypatch):
    """As on Windows, where a file in it is open; the old text is not taken for the new."""
    def refused(path, target):
        raise PermissionError(13, 'Permission denied')
    monkeypatch.setattr(Path, 'replace', refused)
    with pytest.raises(UserError, match='cannot write .*phrasebook.*Permission denied'):
        write_phrasebook(outdated)
    assert len(german(outdated)) == 300


def test_two_runs_at_once_write_an_outdated_phrasebook_anew(outdated):
    with ThreadPoolExecutor(3) as pool:
        assert set(pool.map(write_phrasebook, [outdated] * 3)) == {outdated}
    assert [path.name for path in outdated.parent.iterdir()] == ['phrasebook']
    assert len(german(outdated)) == 200 and len(list(outdated.iterdir())) == 7
