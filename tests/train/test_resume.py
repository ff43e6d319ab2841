"""x"""
import time
def test_a(runner, whole, tmp_path):
    for i in range(2):
        t=time.time()
        ended = runner.finish(tmp_path/f"r{i}", "--save-minutes", 0)
        print(time.time()-t)
    print(ended.err); print(ended.out)
    import collections
    for k,v in collections.Counter(ended.points).items(): print(v,k)
    print(runner.differences(tmp_path/"r1", whole))
