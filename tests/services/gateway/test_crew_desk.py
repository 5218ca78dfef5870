"""What the supervisor keeps for all workers: connections counted over them, questions passed on."""

from lfmesh.core.admission import Admissions
from lfmesh.services.gateway.crew_desk import Desk, Letter
from lfmesh.services.gateway.crew_messages import Admit, Admitted, Answer, Answers, Ask, Leave, Told

WORKERS = ("g.1", "g.2", "g.3")


def desk(total: int = 10, each: int = 0) -> Desk:
    """All of whose workers have started."""
    made = Desk("g", WORKERS, Admissions(total, each), lambda: "own")
    for worker in WORKERS:
        made.started(worker)
    return made


def refusal(letters: list[Letter]) -> str:
    ((_, message),) = letters
    assert isinstance(message, Admitted)
    return message.refusal


def test_bounds_hold_over_all_workers() -> None:
    counted = desk(total=3, each=2)
    assert counted.take("g.1", [Admit(7, "a")], 0.0) == [Letter("g.1", Admitted(7, ""))]
    assert refusal(counted.take("g.2", [Admit(1, "a")], 0.0)) == ""
    assert refusal(counted.take("g.3", [Admit(1, "a")], 0.0)) == "address"
    assert refusal(counted.take("g.3", [Admit(2, "b")], 0.0)) == ""
    assert refusal(counted.take("g.1", [Admit(8, "c")], 0.0)) == "full"
    assert counted.admitted == 3
    assert counted.take("g.2", [Leave("a")], 0.0) == []
    assert refusal(counted.take("g.1", [Admit(9, "a")], 0.0)) == ""


def test_who_leaves_makes_room_for_who_asked_before_it_in_one_go() -> None:
    counted = desk(total=1)
    counted.take("g.1", [Admit(1, "a")], 0.0)
    assert refusal(counted.take("g.1", [Admit(2, "b"), Leave("a")], 0.0)) == ""


def test_the_connections_of_a_dead_worker_are_over_and_no_others() -> None:
    counted = desk(total=5, each=3)
    counted.take("g.1", [Admit(1, "a"), Admit(2, "a")], 0.0)
    counted.take("g.2", [Admit(1, "a"), Admit(2, "b")], 0.0)
    counted.lost("g.1", "killed")
    assert counted.admitted == 2
    assert [refusal(counted.take("g.3", [Admit(number, "a")], 0.0)) for number in range(3)] == ["", "", "address"]
    counted.take("g.2", [Leave("a"), Leave("b")], 0.0)
    counted.lost("g.2", "killed")
    counted.lost("g.3", "killed")
    assert counted.admitted == 0


def asked_numbers(letters: list[Letter]) -> dict[str, int]:
    return {to: message.number for to, message in letters if isinstance(message, Ask)}


def test_a_question_goes_to_the_others_and_all_answers_come_back_in_their_order() -> None:
    passed_on = desk()
    asked = asked_numbers(passed_on.take("g.2", [Ask(5, "ready")], 0.0))
    assert set(asked) == {"g.1", "g.3"}
    assert passed_on.take("g.3", [Answer(asked["g.3"], ["no data"])], 0.1) == []
    assert passed_on.take("g.1", [Answer(asked["g.1"], [])], 0.2) == [
        Letter("g.2", Answers(5, [Told("g.1", []), Told("g.3", ["no data"])]))
    ]
    assert passed_on.due is None
    assert passed_on.take("g.1", [Answer(asked["g.1"], ["late"])], 0.3) == [], "nobody waits for it any more"


def test_the_supervisors_own_metrics_are_among_the_answers() -> None:
    passed_on = Desk("g", ("g.1", "g.2"), Admissions(1), lambda: "own")
    passed_on.started("g.1")
    assert passed_on.take("g.1", [Ask(1, "metrics")], 0.0) == [
        Letter("g.1", Answers(1, [Told("g.2", silence="starting"), Told("g", ["own"])]))
    ]


def test_a_worker_that_does_not_answer_in_time_is_told_of_as_such() -> None:
    passed_on = desk()
    asked = asked_numbers(passed_on.take("g.1", [Ask(5, "ready")], 3.0))
    passed_on.take("g.2", [Answer(asked["g.2"], [])], 3.1)
    assert passed_on.due == 4.0
    assert passed_on.expire(3.9) == []
    assert passed_on.expire(4.0) == [
        Letter("g.1", Answers(5, [Told("g.2", []), Told("g.3", silence="no answer within 1 s")]))
    ]


def test_nobody_waits_for_the_dead_and_the_dead_for_nobody() -> None:
    passed_on = desk()
    asked = asked_numbers(passed_on.take("g.1", [Ask(5, "ready")], 0.0))
    passed_on.take("g.2", [Answer(asked["g.2"], [])], 0.0)
    assert passed_on.lost("g.3", "killed by SIGKILL") == [
        Letter("g.1", Answers(5, [Told("g.2", []), Told("g.3", silence="killed by SIGKILL")]))
    ]
    again = passed_on.take("g.1", [Ask(6, "ready")], 1.0)
    assert set(asked_numbers(again)) == {"g.2"}
    assert passed_on.lost("g.1", "killed by SIGKILL") == []
    assert passed_on.due is None
    passed_on.started("g.3")
    assert set(asked_numbers(passed_on.take("g.2", [Ask(1, "ready")], 2.0))) == {"g.3"}
